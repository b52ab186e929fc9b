"""Figure of certified accuracy against the radius."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from common.records.columns import Values
from common.records.intervals import interval
from common.records.summary import certified
from common.report.figures.drawing import Style, label_axes, legend, plot
from common.report.runs import Run
from common.report.tables.certification import FORECAST, Certificates, is_forecast, targets

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FINEST = 400  # steps of a curve; with more its values are taken at evenly spaced radii


def certified_curves(runs: Sequence[Run], style: Style) -> "Figure":
    """Certified accuracy against the radius: steps down at every image's radius, in a band of exact intervals.

    With target radii it steps down at those: below each it is at least its value there.
    """
    curves = [(run, evaluation) for run in runs for evaluation in run.certified]
    figure, axes = plot(style)
    furthest = max((float(one.rows.array("radius").max()) for _, one in curves), default=0.0) or 1.0
    for position, (_, one) in enumerate(curves):
        colour, dashes = style.colour(position), style.dash(position)
        _curve(axes, _certified_radii(one), len(one.rows), furthest * 1.04, colour, dashes)
    axes.set_xlim(0, furthest * 1.04)
    axes.set_ylim(0, 101)
    label_axes(axes, "L2 radius in pixel units", "certified accuracy, %", style)
    legend(axes, [_name(run, one) for run, one in curves], style)
    return figure


def _name(run: Run, evaluation: Certificates) -> str:
    parts = [run.name, evaluation.title] if len(run.certified) > 1 else [run.name]
    return ", ".join([*parts, FORECAST] if is_forecast(evaluation.rows) else parts)


def _certified_radii(evaluation: Certificates) -> Values:
    """Radii of the certified images, ascending; with targets, the largest target that each reaches."""
    radii = np.sort(evaluation.rows.array("radius")[certified(evaluation.rows, 0)])
    if (chosen := targets(evaluation)) is None:
        return radii
    reached = np.searchsorted(sorted(chosen), radii, side="right")
    return np.array(sorted(chosen))[reached[reached > 0] - 1]


def _curve(axes: "Axes", radii: Values, n: int, end: float, colour: str, dashes: str) -> None:
    jumps: list[float] = np.unique(radii).tolist()
    if len(jumps) > FINEST:
        jumps = [end * step / FINEST for step in range(1, FINEST)]
    counts = (len(radii) - np.searchsorted(radii, [*jumps, end])).tolist()
    bounds = {count: interval(count, n) for count in counts}
    value, low, high = ([100 * number for number in numbers] for numbers in zip(
        *((count / n, *bounds[count]) for count in [*counts, counts[-1]]), strict=True
    ))  # fmt: skip
    starts = [0.0, *jumps, end]  # a radius itself is still certified: the step follows it
    axes.step(starts, value, where="post", color=colour, linestyle=dashes, linewidth=1.7, label=colour, zorder=3)
    axes.fill_between(starts, low, high, step="post", color=colour, alpha=0.14, linewidth=0, zorder=2)
