"""Figures of accuracies: bars, and clean against robust accuracy."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from common.records.intervals import Share
from common.records.schema import AttackedRecord
from common.records.summary import average
from common.report.figures.drawing import (
    MARKERS,
    Style,
    attack_numbers,
    label_axes,
    legend,
    new_figure,
    plain_axes,
    plot,
)
from common.report.header import budget
from common.report.pairing import FEW
from common.report.runs import Evaluation, Run
from common.report.scores import main_budget
from common.report.tables.table import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 24  # attacks with bars of their own
INCH = 0.27  # height of a bar with the space around it

Bar = tuple[str, Share, str, float]  # label, share, colour, opacity
Point = tuple[str, Share, Share]  # label, clean accuracy, robust accuracy


def accuracy_bars(runs: Sequence[Run], style: Style) -> "Figure":
    """Clean and attacked accuracy per defence, each with its interval; an attack keeps its colour.

    Where there `are_many` attacks, the worst of them alone.
    """
    numbers = attack_numbers(runs)
    many = are_many(runs)
    groups = [
        (run.name, _bars(run, numbers, style, [*run.worst_by_budget.values()] if many else run.attacked))
        for run in runs
    ]
    groups = [(name, bars) for name, bars in groups if bars]
    count = sum(len(bars) + 1.4 for _, bars in groups)
    figure, axes = new_figure(style.width, 0.45 + INCH * count)
    position = 0.0
    for name, bars in groups:
        axes.text(0, position, name, color=style.ink, weight="bold", va="center", size=9.5, parse_math=False)
        for bar in bars:
            position += 1
            _bar(axes, position, bar, style)
        position += 1.4
    axes.set_ylim(position - 0.4, -0.7)
    axes.set_xlim(0, 112)
    axes.set_xticks([0, 20, 40, 60, 80, 100])
    axes.set_yticks([])
    axes.set_xlabel("accuracy, % (whiskers: exact 95 % interval)", color=style.soft)
    plain_axes(axes, style)
    axes.grid(axis="x", color=style.line, linewidth=0.6, zorder=0)
    return figure


def are_many(runs: Sequence[Run]) -> bool:
    """True of runs with so many attacks together that a figure of all would fill several screens."""
    return sum(len(run.attacked) for run in runs) > MOST


def _bars(
    run: Run, numbers: Mapping[str, int], style: Style, attacks: Sequence[Evaluation[AttackedRecord]]
) -> list[Bar]:
    clean = [(one.title, one.summary.metrics["Avg"], style.neutral, 1.0) for one in run.clean]
    if not clean and run.attacked:
        clean = [("clean", run.attacked[0].summary.metrics["clean Avg"], style.neutral, 1.0)]
    bars: list[Bar] = []
    threats = {(attack.rows[0].norm, attack.rows[0].eps) for attack in attacks}
    for attack in attacks:
        metrics, number = attack.summary.metrics, numbers.get(attack.name)
        label = "worst attack per image" if number is None else attack.title
        if number is None and len(threats) > 1:
            label += f", {budget(attack.rows[0].norm, attack.rows[0].eps)}"
        colour = style.soft if number is None else style.colour(number)
        bars.append((label, metrics["Avg"], colour, 1.0))
        worst = [name for name in metrics if name.startswith("Wor@")]
        bars += [(f"{label}, worst of {name[4:]}", metrics[name], colour, 0.45) for name in worst]
    return clean + bars


def _bar(axes: "Axes", position: float, bar: Bar, style: Style) -> None:
    label, share, colour, opacity = bar
    value, low, high = (100 * number for number in share)
    axes.barh(position, value, height=0.62, color=colour, alpha=opacity, zorder=2)
    axes.plot([low, high], [position, position], color=style.ink, linewidth=1.1, solid_capstyle="butt", zorder=3)
    axes.text(-1.5, position, label, color=style.ink, va="center", ha="right", size=8.5, parse_math=False)
    axes.text(max(value, high) + 1.2, position, percent(share[0]), color=style.ink, va="center", ha="left", size=8.5)


def plane_points(runs: Sequence[Run]) -> list[Point]:
    """(name, clean accuracy, worst-case robust accuracy) of every run and budget; of many runs in the main one."""
    points: list[Point] = []
    main = main_budget(runs)
    budgets = {key for run in runs for key in run.worst_by_budget}
    for run in runs:
        for key, worst in run.worst_by_budget.items():
            if len(budgets) > 1 and len(runs) > FEW and key != main:
                continue
            clean = average(worst.rows, "clean_predictions")
            if run.clean:
                clean = run.clean[0].summary.metrics["Avg"]
            label = f"{run.name}, {budget(*key)}" if len(budgets) > 1 and len(runs) <= FEW else run.name
            points.append((label, clean, worst.summary.metrics["Avg"]))
    return points


def plane(runs: Sequence[Run], style: Style) -> "Figure":
    """Worst-case robust accuracy against clean accuracy, a point and two intervals per run."""
    figure, axes = plot(style)
    points = plane_points(runs)
    for number, (_, clean, robust) in enumerate(points):
        colour, (x, y) = style.colour(number), (100 * clean[0], 100 * robust[0])
        axes.plot([100 * clean[1], 100 * clean[2]], [y, y], color=colour, linewidth=1.2, zorder=2)
        axes.plot([x, x], [100 * robust[1], 100 * robust[2]], color=colour, linewidth=1.2, zorder=2)
        mark = MARKERS[number % len(MARKERS)]
        axes.plot(x, y, mark, color=colour, markersize=7, label=str(number), zorder=3)
    axes.set_xlim(max(0.0, min([*(100 * clean[1] for _, clean, _ in points), 90.0]) - 5), 101)
    axes.set_ylim(0, min(101.0, max(100 * robust[2] for _, _, robust in points) + 15))
    label_axes(axes, "clean accuracy, %", "robust accuracy under the worst attack, %", style)
    legend(axes, [name for name, _, _ in points], style)
    return figure
