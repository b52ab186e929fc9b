"""Spreadsheet of every metric of a report."""

import csv
from collections.abc import Sequence
from pathlib import Path

from common.report.runs import Run


def write_metrics(runs: Sequence[Run], path: Path) -> Path:
    """Write every metric of every summary, unrounded, a line each."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["defence", "evaluator", "seed", "images", "metric", "value", "low", "high"])
        for run in runs:
            for evaluation in [*run.results, *run.minima, *run.comparisons]:
                summary = evaluation.summary
                for metric, share in summary.metrics.items():
                    writer.writerow([run.name, *evaluation.source[:2], summary.n, metric, *share])
    return path
