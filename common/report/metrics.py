"""Spreadsheet of every metric of a report."""

from collections.abc import Sequence

from common.files.spreadsheets import as_csv
from common.report.runs import Run


def metrics_csv(runs: Sequence[Run]) -> str:
    """Every metric of every summary as CSV, unrounded, a line each."""
    lines: list[Sequence[object]] = [["defence", "evaluator", "seed", "images", "metric", "value", "low", "high"]]
    for run in runs:
        for evaluation in [*run.results, *run.minima, *run.comparisons]:
            summary = evaluation.summary
            for metric, share in summary.metrics.items():
                lines.append([run.name, *evaluation.source[:2], summary.n, metric, *share])
    return as_csv(lines)
