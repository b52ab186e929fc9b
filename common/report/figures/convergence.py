"""Figures on the convergence of attacks: their own loops, and series that differ in one setting."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from common.records.column_rows import Rows
from common.records.schema import AttackedRecord
from common.report.figures.drawing import MARKERS, Figure, Style, attack_numbers, label_axes, legend, plot
from common.report.figures.series import SETTINGS, common_average, series, series_plot
from common.report.runs import Run, by_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas


def mean_curve(rows: Sequence[AttackedRecord]) -> list[float]:
    """Mean over images of the attack's curve: after each round, its share of correct draws at its best point so far.

    Images without a curve are left out; one that ended early keeps its last value.
    """
    return _mean_curve([Rows.of(rows)] if len(rows) else [])


def _mean_curve(parts: Sequence[Rows[AttackedRecord]]) -> list[float]:
    """Mean over the images of several seeds."""
    known = [(lists, lists.counts > 0) for lists in (rows.lists("curve") for rows in parts)]
    length = max((int(lists.counts.max()) for lists, _ in known), default=0)
    images = sum(int(mask.sum()) for _, mask in known)
    sums = np.zeros(length)
    for lists, mask in known:
        starts, last = lists.starts[mask], lists.counts[mask] - 1
        sums += [lists.flat[starts + np.minimum(step, last)].sum() for step in range(length)]
    return (sums / images).tolist() if images else []


def has_curves(run: Run) -> bool:
    """True if any attack of the run reports a curve."""
    return any((attack.rows.lists("curve").lengths > 1).any() for attack in run.attacks)


def iterations(run: Run, runs: Sequence[Run], style: Style) -> "Canvas":
    """One curve per attack, all its seeds together; at its end, as a point, the accuracy on fresh draws."""
    figure, axes = plot(style)
    numbers, ends = attack_numbers(runs), list[int]()
    attacks = by_name(run.attacks)
    curves = {name: _mean_curve([seed.rows for seed in seeds]) for name, seeds in attacks.items()}
    curves = {name: values for name, values in curves.items() if len(values) > 1}
    longest = max(map(len, curves.values()))
    for name, values in curves.items():
        colour, rounds = style.colour(numbers[name]), range(1, len(values) + 1)
        percents, dashes = [100 * value for value in values], style.dash(numbers[name])
        axes.plot(rounds, percents, color=colour, linestyle=dashes, linewidth=1.7, label=name, zorder=3)
        x = len(values) + longest * 0.012 * (1 + ends.count(len(values)))  # whiskers side by side
        _, (value, low, high) = common_average([seed.rows for seed in attacks[name]])
        axes.plot([x, x], [100 * low, 100 * high], color=colour, linewidth=1.1, zorder=2)
        axes.plot(x, 100 * value, MARKERS[numbers[name] % len(MARKERS)], color=colour, markersize=5, zorder=3)
        ends.append(len(values))
    axes.set_xlim(0, longest * (1.02 + 0.012 * len(ends)))
    axes.set_ylim(0, 101)
    label_axes(axes, "rounds of the attack's loop", "correct, % of draws", style)
    legend(axes, list(curves), style)
    return figure


def convergence(runs: Sequence[Run]) -> list[Figure]:
    """Every figure on convergence that the records allow."""
    figures: list[Figure] = []
    for number, run in enumerate((run for run in runs if has_curves(run)), 1):
        caption = (
            f"{run.name}: the loop of each attack, the share of its draws that were correct at its best point so far, "
            "averaged over images. The point at its end is the accuracy on fresh draws."
        )
        figures.append(Figure(f"iterations-{number}", caption, partial(iterations, run, list(runs))))
    for setting, (words, _) in SETTINGS.items():
        groups = [group for group in series(runs, setting) if group.points]
        if groups:
            images = " and ".join(str(n) for n in sorted({group.n for group in groups}))
            caption = (
                f"Average accuracy on fresh draws against {words}, all other settings equal; {images} common images, "
                "exact 95 % intervals."
            )
            figures.append(Figure(f"against-{setting}", caption, partial(series_plot, groups, setting)))
    return figures
