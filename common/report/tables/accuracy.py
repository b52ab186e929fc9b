"""Tables of accuracies: of every evaluation, by class, over seeds."""

import math
from collections.abc import Sequence

import numpy as np

from common.records.column_rows import Rows
from common.records.intervals import Share, share
from common.records.schema import PredictionRecord
from common.records.summary import correct_shares
from common.report.header import budget
from common.report.runs import Evaluation, Run, by_name
from common.report.tables.gradients import gradient_note
from common.report.tables.table import Cell, Entry, Table, bounds, percent

CROSS_FITTED = (
    "“Worst of” several attacks is cross-fitted: the attack on each image is chosen on one half of its draws and "
    "scored on the other, which favours no lucky attack but understates an attacker who may query at will. “Per-image "
    "minimum” chooses and scores on all draws, and leaves what such an attacker leaves."
)

Scores = dict[int, tuple[int, Share]]  # by class the number of its images, and their average accuracy
Column = tuple[str, Scores]


def accuracy_table(runs: Sequence[Run]) -> Table:
    """One row per run and clean or attacked evaluation, worst cases and per-image minima last."""
    columns = ["Defence", "Evaluation", "Images", "Draws", "Average", "Worst draw", "Majority", "Worst draw, no attack"]
    rows = [_accuracies(run, evaluation) for run in runs for evaluation in [*run.clean, *run.attacked, *run.minima]]
    return Table("Accuracy, %", columns, rows, notes=[CROSS_FITTED] if any(run.minima for run in runs) else [])


def _accuracies(run: Run, evaluation: Evaluation[PredictionRecord]) -> list[Entry]:
    draws, summary = len(evaluation.rows[0].predictions), evaluation.summary
    rest = [summary.metrics.get(f"{name}@{draws}") for name in ("Wor", "MV", "clean Wor")]
    note = gradient_note(run, evaluation)
    title = f"{evaluation.title} ({note})" if note else evaluation.title
    return [run.name, title, summary.n, draws, summary.metrics["Avg"], *rest]


def class_table(run: Run) -> Table:
    """By class: images, clean accuracy and the average under every attack, each with its interval."""
    columns: list[Column] = [(one.title, _by_class(one.rows)) for one in run.clean[:1]]
    if not columns and run.attacked:
        columns = [("clean", _by_class(run.attacked[0].rows, "clean_predictions"))]
    titles = worst_case_titles(run)
    columns += [(titles.get(one.title, one.title), _by_class(one.rows)) for one in run.attacked]
    rows: list[list[Entry]] = []
    for label in sorted({label for _, classes in columns for label in classes}):
        counts = [classes[label][0] for _, classes in columns if label in classes]
        rows.append([str(label), max(counts), *(_of_class(classes.get(label), max(counts)) for _, classes in columns)])
    return Table(f"{run.name}: average accuracy by class, %", ["Class", "Images", *(c[0] for c in columns)], rows, 1)


def worst_case_titles(run: Run) -> dict[str, str]:
    """Short names of derived worst cases: ``"worst attack, L∞ ≤ 8/255"``, and with ``, per-image minimum``."""
    kinds = ((run.worst_cases, ""), (run.minima, ", per-image minimum"))
    return {
        one.title: f"worst attack, {budget(one.rows[0].norm, one.rows[0].eps)}{kind}"
        for derived, kind in kinds
        for one in derived
    }


def _by_class(rows: Rows[PredictionRecord], predictions: str = "predictions") -> Scores:
    order = np.argsort(rows.label, kind="stable")
    labels, starts = np.unique(rows.label[order], return_index=True)
    shares = np.split(correct_shares(rows.lists(predictions), rows.label)[order], starts[1:])
    return {
        label: (len(part), share(math.fsum(part.tolist()), len(part)))
        for label, part in zip(labels.tolist(), shares, strict=True)
    }


def _of_class(scores: tuple[int, Share] | None, count: int) -> Entry:
    if scores is None:
        return None
    images, average = scores
    return average if images == count else Cell(percent(average[0]), f"{bounds(average)} of {images}", True)


def seed_table(runs: Sequence[Run]) -> Table:
    """Evaluators with several seeds: mean of their averages, extremes, standard deviation between seeds."""
    rows: list[list[Entry]] = []
    for run in runs:
        evaluations: list[Evaluation[PredictionRecord]] = [*run.clean, *run.attacked]
        for name, seeds in sorted(by_name(evaluations).items()):
            values = [evaluation.summary.metrics["Avg"][0] for evaluation in seeds]
            if len(values) > 1:
                mean = sum(values) / len(values)
                spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
                ends = (percent(value) for value in (min(values), max(values)))
                rows.append([run.name, name, len(values), percent(mean), *ends, f"{100 * spread:.2f}"])
    columns = ["Defence", "Evaluation", "Seeds", "Mean", "Lowest", "Highest", "Standard deviation"]
    return Table("Average accuracy over seeds, %", columns, rows)
