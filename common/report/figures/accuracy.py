"""Figures of results: bars, the plane of accuracy and robustness, certified curves."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from common.records.store import Record, interval, is_certified
from common.report.figures.drawing import (
    MARKERS,
    Style,
    evaluator_numbers,
    label_axes,
    legend,
    new_figure,
    plain_axes,
    plot,
)
from common.report.header import budget
from common.report.runs import Run, family
from common.report.tables.certification import is_foreseen, targets
from common.report.tables.scores import average
from common.report.tables.table import Triple, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INCH = 0.27  # height of a bar with the air around it
FINEST = 400  # steps of a curve; beyond them its values are taken at evenly spaced radii

Bar = tuple[str, Triple, str, float]  # label, share, colour and its opacity
Point = tuple[str, Triple, Triple]


def accuracy_bars(runs: Sequence[Run], style: Style) -> "Figure":
    """Clean and attacked accuracy per defence, each with its interval; an attack keeps its colour."""
    numbers = evaluator_numbers(runs)
    groups = [(run.name, _bars(run, numbers, style)) for run in runs]
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


def _bars(run: Run, numbers: Mapping[str, int], style: Style) -> list[Bar]:
    clean = [(s.evaluator, s.metrics["Avg"], style.neutral, 1.0) for s in run.of_kind(0)]
    bars: list[Bar] = []
    for summary in run.of_kind(1):
        label = summary.evaluator if summary.evaluator in run.attacks else "worst attack per image"
        if not clean and "clean Avg" in summary.metrics:
            clean = [("clean", summary.metrics["clean Avg"], style.neutral, 1.0)]
        number = numbers.get(family(summary.evaluator))
        colour = style.soft if number is None else style.colour(number)
        bars.append((label, summary.metrics["Avg"], colour, 1.0))
        worst = [name for name in summary.metrics if name.startswith("Wor@")]
        bars += [(f"{label}, worst of {n[4:]}", summary.metrics[n], colour, 0.45) for n in worst]
    return clean + bars


def _bar(axes: "Axes", position: float, bar: Bar, style: Style) -> None:
    label, triple, colour, opacity = bar
    value, low, high = (100 * number for number in triple)
    axes.barh(position, value, height=0.62, color=colour, alpha=opacity, zorder=2)
    axes.plot([low, high], [position, position], color=style.ink, linewidth=1.1, solid_capstyle="butt", zorder=3)
    axes.text(-1.5, position, label, color=style.ink, va="center", ha="right", size=8.5, parse_math=False)
    axes.text(max(value, high) + 1.2, position, percent(triple[0]), color=style.ink, va="center", ha="left", size=8.5)


def plane_points(runs: Sequence[Run]) -> list[Point]:
    """(name, clean accuracy, worst-case robust accuracy) of every run and budget that has both."""
    points: list[Point] = []
    several = {name for run in runs for name in run.worst_names}
    for run in runs:
        for bound, name in run.worst_names.items():
            rows, seen = run.rows(name), run.of_kind(0)
            if seen:
                clean = seen[0].metrics["Avg"]
            elif all(row.values.get("clean_predictions") for row in rows):
                clean = average(rows, "clean_predictions")
            else:
                continue
            label = f"{run.name}, {budget(*bound)}" if len(several) > 1 else run.name
            points.append((label, clean, average(rows)))
    return points


def plane(runs: Sequence[Run], style: Style) -> "Figure":
    """Clean accuracy against worst-case robust accuracy, a point and two intervals per run."""
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


def certified_curves(runs: Sequence[Run], style: Style) -> "Figure":
    """Certified accuracy against the radius: steps down at every image's radius, in a band of exact intervals.

    Where only some radii were asked about, it steps down at those: below each it is at least what it is there.
    """
    curves = [(run, summary.evaluator) for run in runs for summary in run.of_kind(2)]
    names = [_curve_name(run, evaluator) for run, evaluator in curves]
    figure, axes = plot(style)
    furthest = max((row.values["radius"] for run, name in curves for row in run.rows(name)), default=0.0) or 1.0
    for position, (run, evaluator) in enumerate(curves):
        rows = run.rows(evaluator)
        radii = _certified_radii(rows, targets(run, evaluator))
        _curve(axes, radii, len(rows), furthest * 1.04, style.colour(position), style.dash(position))
    axes.set_xlim(0, furthest * 1.04)
    axes.set_ylim(0, 101)
    label_axes(axes, "L2 radius in pixel units", "certified accuracy, %", style)
    legend(axes, names, style)
    return figure


def _curve_name(run: Run, evaluator: str) -> str:
    parts = [run.name, evaluator] if len(run.of_kind(2)) > 1 else [run.name]
    return ", ".join([*parts, "foreseen"] if is_foreseen(run.rows(evaluator)) else parts)


def _certified_radii(rows: list[Record], asked: list[float] | None) -> list[float]:
    """Of the images that are certified, ascending; the largest of the radii ``asked`` about that each reaches."""
    found = sorted(row.values["radius"] for row in rows if is_certified(row, 0))
    return found if asked is None else [max(r for r in asked if r <= x) for x in found if x >= min(asked)]


def _curve(axes: "Axes", certified: list[float], n: int, end: float, colour: str, dashes: str) -> None:
    jumps = sorted(set(certified))
    if len(jumps) > FINEST:
        jumps = [end * step / FINEST for step in range(1, FINEST)]
    counts = [len(certified) - bisect_left(certified, radius) for radius in [*jumps, end]]
    bounds = {count: interval(count, n) for count in counts}
    value, low, high = ([100 * number for number in numbers] for numbers in zip(
        *((count / n, *bounds[count]) for count in [*counts, counts[-1]]), strict=True
    ))  # fmt: skip
    starts = [0.0, *jumps, end]  # a radius itself is still certified: the step follows it
    axes.step(starts, value, where="post", color=colour, linestyle=dashes, linewidth=1.7, label=colour, zorder=3)
    axes.fill_between(starts, low, high, step="post", color=colour, alpha=0.14, linewidth=0, zorder=2)
