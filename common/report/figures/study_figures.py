"""Figures of a study: each score against the varied settings."""

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from common.experiments.curves import all_numbers
from common.experiments.study import Study
from common.report.figures.drawing import (
    MARKERS,
    Figure,
    Style,
    label_axes,
    legend,
    new_canvas,
    new_figure,
    plain_axes,
)
from common.report.tables.study_table import Outcome, score_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

LETTERS = 44  # that fit below a panel
HEIGHT = 3.0  # of a panel, in inches


def study_figures(study: Study, results: Sequence[Outcome]) -> list[Figure]:
    """Scores against the first axis, a panel each and a line for each combination of the other settings."""
    if not results:
        return []
    caption = f"{study.title} Whiskers are exact 95 % intervals."
    figures = [Figure(study.name, caption, partial(panels, results))]
    robust = [name for name in score_names(results) if "worst" not in name]
    if len(robust) == 2 and len(results) > 1:
        caption = f"{study.title} {robust[1]} against {robust[0]}."
        figures.append(Figure(f"{study.name}-plane", caption, partial(trade_off, results, robust)))
    return figures


def panels(results: Sequence[Outcome], style: Style) -> "Canvas":
    """One panel per score."""
    names = score_names(results)
    columns = 2 if len(names) > 1 else 1
    rows = -(-len(names) // columns)
    figure = new_canvas(style.width, HEIGHT * rows)
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    figure.subplots_adjust(hspace=0.28 if _crowded(results) else 0.42, wspace=0.22)
    groups = lines(results)
    for place, (axes, name) in enumerate(zip(grid, names, strict=False)):
        plain_axes(axes, style)
        axes.grid(color=style.line, linewidth=0.6, zorder=0)
        for number, group in enumerate(groups.values()):
            _line(axes, [one for one in group if name in one.scores], name, number, style)
        axes.set_title(name, loc="left", color=style.ink, fontsize=9.5, parse_math=False)
        _ticks(axes, results, style, place + columns >= len(names))
    for axes in grid[len(names) :]:
        axes.set_visible(False)
    if len(groups) > 1:
        legend(grid[(rows - 1) * columns], list(groups), style, 0.05 * max(map(len, _crowded(results)), default=0))
    return figure


def trade_off(results: Sequence[Outcome], names: Sequence[str], style: Style) -> "Canvas":
    """The second score against the first: a line per group along the axis, its values beside the points."""
    figure, axes = new_figure(style.width, 0.55 * style.width)
    plain_axes(axes, style)
    axes.grid(color=style.line, linewidth=0.6, zorder=0)
    groups = lines(results)
    for number, group in enumerate(groups.values()):
        points = [(100 * one.scores[names[0]][0], 100 * one.scores[names[1]][0], one) for one in group]
        mark = MARKERS[number % len(MARKERS)]
        line: dict[str, Any] = {"color": style.colour(number), "marker": mark, "linewidth": 1.4, "label": str(number)}
        axes.plot([x for x, _, _ in points], [y for _, y, _ in points], **line)
        for x, y, one in points if has_axis(results) else []:
            text = str(one.values[0][1])
            axes.annotate(text, (x, y), (4, 4), textcoords="offset points", color=style.soft, fontsize=7.5)
    label_axes(axes, f"{names[0]}, %", f"{names[1]}, %", style)
    if len(groups) > 1:
        legend(axes, list(groups), style)
    return figure


def has_axis(results: Sequence[Outcome]) -> bool:
    """True if a setting was varied."""
    return bool(results and results[0].values)


def lines(results: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    """Outcomes that differ in the first axis alone, by their other settings; one line without an axis."""
    groups: dict[str, list[Outcome]] = {}
    for one in results:
        shared = [*([one.case] if one.case and one.values else []), *(f"{n} {v}" for n, v in one.values[1:])]
        groups.setdefault(", ".join(shared), []).append(one)
    return groups


def _line(axes: "Axes", group: Sequence[Outcome], name: str, number: int, style: Style) -> None:
    places = [_position(one, group) for one in group]
    value, low, high = ([100 * one.scores[name][k] for one in group] for k in range(3))
    below, above = ([abs(a - b) for a, b in zip(value, ends, strict=True)] for ends in (low, high))
    joined = "-" if has_axis(group) else "none"
    axes.errorbar(
        places, value, yerr=[below, above], color=style.colour(number), marker=MARKERS[number % len(MARKERS)],
        markersize=5, linewidth=1.5, linestyle=joined, elinewidth=0.9, zorder=3,
        label=str(number),
    )  # fmt: skip


def _position(one: Outcome, group: Sequence[Outcome]) -> float:
    """Position on the axis: the value itself if all are numbers, else its rank."""
    if has_axis(group) and all_numbers([other.values[0][1] for other in group]):
        return float(one.values[0][1])
    return float([_tick(other) for other in group].index(_tick(one)))


def _crowded(results: Sequence[Outcome]) -> list[str]:
    """The words below an axis if they are too long to stand beside each other; none otherwise."""
    words = list(dict.fromkeys(_tick(one) for one in results))
    numbers = has_axis(results) and all_numbers([one.values[0][1] for one in results])
    return words if not numbers and sum(map(len, words)) + 2 * len(words) > LETTERS else []


def _ticks(axes: "Axes", results: Sequence[Outcome], style: Style, lowest: bool) -> None:
    """Ticks of a panel; long words below the ``lowest`` panels alone, slanted."""
    words = list(dict.fromkeys(_tick(one) for one in results))
    values: list[Any] = [one.values[0][1] for one in results] if has_axis(results) else []
    if values and all_numbers(values):
        ordered = sorted(set(map(float, values)))
        if ordered[0] > 0 and ordered[-1] >= 8 * ordered[0]:
            axes.set_xscale("log")
        axes.set_xticks(ordered, spaced(ordered, axes.get_xscale() == "log", LETTERS))
        axes.minorticks_off()
    else:
        axes.set_xticks(range(len(words)), words)
    label_axes(axes, results[0].values[0][0] if values else "", "%", style)
    if _crowded(results):
        axes.tick_params(axis="x", rotation=40, labelbottom=lowest)
        for label in axes.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
        axes.set_xlabel(axes.get_xlabel() if lowest else "")


def spaced(values: Sequence[float], logarithmic: bool, letters: int) -> list[str]:
    """Labels of ascending values on an axis as wide as so many letters: "" for one that would touch its neighbour.

    The last value has one, and of the others each that is far enough from the labels before and from the last.
    """
    if len(values) < 2:
        return [f"{value:g}" for value in values]
    texts = [f"{value:g}" for value in values]
    places = [math.log(value) if logarithmic else value for value in values]
    scale = letters / (places[-1] - places[0])

    def touch(one: int, other: int) -> bool:
        return scale * (places[other] - places[one]) < (len(texts[one]) + len(texts[other])) / 2 + 1

    shown = [0]
    for place in range(1, len(values) - 1):
        if not touch(shown[-1], place) and not touch(place, len(values) - 1):
            shown.append(place)
    return [text if place in (*shown, len(values) - 1) else "" for place, text in enumerate(texts)]


def _tick(one: Outcome) -> str:
    return str(one.values[0][1]) if one.values else one.case
