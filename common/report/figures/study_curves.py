"""Figure of a study that has curves beside its scores: all scores in one panel, the curves below, over one axis."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from common.experiments.curves import Curves
from common.experiments.study import Study
from common.report.figures.drawing import MARKERS, Figure, Style, label_axes, legend, new_canvas, plain_axes
from common.report.figures.study_figures import LETTERS, lines, spaced
from common.report.tables.study_table import Outcome, score_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

HEIGHT = 2.9  # of a panel with its legend, in inches
LOWER = 0.13  # of a legend, for the label of the axis
WIDE = 30  # ratio of the largest to the smallest number of a panel with a logarithmic axis


def curve_figures(study: Study, results: Sequence[Outcome]) -> list[Figure]:
    """Scores and curves over the first setting; none of a study without curves or results."""
    if study.curves is None or not results:
        return []
    caption = f"{study.title} Scores with exact 95 % intervals, and the study's curves over {study.curves.axis}."
    return [Figure(f"{study.name}-curves", caption, partial(curve_panels, results, study.curves))]


def curve_panels(results: Sequence[Outcome], curves: Curves, style: Style) -> "Canvas":
    """A panel with all scores, and one for each panel of the curves."""
    count = 1 + len(curves.panels)
    figure = new_canvas(style.width, HEIGHT * count)
    grid = figure.subplots(count, 1, sharex=True)
    figure.subplots_adjust(hspace=0.62)
    for axes in grid:
        plain_axes(axes, style)
        axes.grid(color=style.line, linewidth=0.6, zorder=0)
        axes.tick_params(labelbottom=True)
    _scores(grid[0], results, style)
    for axes, (label, panel) in zip(grid[1:], curves.panels.items(), strict=True):
        _curves(axes, curves.places, panel, style)
        axes.set_title(label, loc="left", color=style.ink, fontsize=9.5, parse_math=False)
    ticks = sorted({float(one.values[0][1]) for one in results})
    grid[0].set_xticks(ticks, spaced(ticks, False, 2 * LETTERS))
    for axes in grid:
        label_axes(axes, curves.axis, "", style)
    return figure


def _scores(axes: "Axes", results: Sequence[Outcome], style: Style) -> None:
    groups = [(group, members, name) for group, members in lines(results).items() for name in score_names(members)]
    for number, (_, members, name) in enumerate(groups):
        points = [(float(one.values[0][1]), one.scores[name]) for one in members if name in one.scores]
        places = [place for place, _ in points]
        value, low, high = ([100 * score[k] for _, score in points] for k in range(3))
        colour, mark = style.colour(number), MARKERS[number % len(MARKERS)]
        axes.plot(places, value, color=colour, marker=mark, markersize=5, linewidth=1.5, zorder=3, label=str(number))
        axes.vlines(places, low, high, color=colour, linewidth=0.9, zorder=2)
    axes.set_ylim(0, 101)
    axes.set_title("accuracy, %", loc="left", color=style.ink, fontsize=9.5)
    legend(axes, [f"{name}, {group}" if group else name for group, _, name in groups], style, LOWER)


def _curves(axes: "Axes", places: Sequence[float], panel: Mapping[str, Sequence[float | None]], style: Style) -> None:
    for number, values in enumerate(panel.values()):
        known = [(place, value) for place, value in zip(places, values, strict=True) if value is not None]
        x, y = [place for place, _ in known], [value for _, value in known]
        mark = "" if len(x) == len(places) else MARKERS[number % len(MARKERS)]
        colour, dash = style.colour(number), style.dash(number)
        axes.plot(
            x, y, color=colour, linestyle=dash, marker=mark, markersize=5, linewidth=1.7, zorder=3, label=str(number)
        )
    numbers = [value for values in panel.values() for value in values if value is not None]
    if numbers and min(numbers) > 0 and max(numbers) > WIDE * min(numbers):
        axes.set_yscale("log")
        axes.minorticks_off()
    else:
        axes.set_ylim(bottom=min(0.0, *numbers, 0.0))
    legend(axes, list(panel), style, LOWER)
