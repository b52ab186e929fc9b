"""Figures of results: accuracies, their plane and certified accuracies, as far as the records allow."""

from collections.abc import Sequence
from functools import partial

from common.report.figures.accuracy_bars import accuracy_bars, are_many, plane, plane_points
from common.report.figures.certified import certified_curves
from common.report.figures.drawing import Figure
from common.report.runs import Run


def result_figures(runs: Sequence[Run]) -> list[Figure]:
    """Figures of accuracies per defence, of clean against robust accuracy, and of certified accuracy."""
    figures: list[Figure] = []
    if any(run.clean or run.attacked for run in runs):
        shown = "under the worst attack" if are_many(runs) else "on attacked images"
        caption = f"Accuracy on clean images and {shown}, per defence. The numbers are in the tables above."
        figures.append(Figure("accuracy", caption, partial(accuracy_bars, runs)))
    if len(plane_points(runs)) > 1:
        caption = (
            "Clean accuracy against average accuracy under the worst of all attacks that were run within the budget, "
            "with exact 95 % intervals of both."
        )
        figures.append(Figure("plane", caption, partial(plane, runs)))
    if any(run.certified for run in runs):
        caption = "Certified accuracy against the L2 radius, with bands of pointwise 95 % intervals."
        figures.append(Figure("certified", caption, partial(certified_curves, runs)))
    return figures
