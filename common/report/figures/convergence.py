"""Has the attack converged? What its own loop saw, and series of attacks that differ in one setting."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from common.records.store import Record
from common.report.figures.drawing import MARKERS, Drawn, Style, evaluator_numbers, label_axes, legend, plot
from common.report.figures.series import KNOBS, fresh, series, series_figure
from common.report.runs import Run, family

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def curve(rows: Sequence[Record]) -> list[float]:
    """Mean over images of what the attack saw after each round: the share of its draws right at its best point so far.

    Images without a curve are left out; one that ended early keeps its last value.
    """
    curves = [row.values["curve"] for row in rows if row.values.get("curve")]
    length = max(map(len, curves), default=0)
    return [sum(c[min(step, len(c) - 1)] for c in curves) / len(curves) for step in range(length)]


def has_curves(run: Run) -> bool:
    """Whether any attack of the run says how it went on."""
    return any(len(row.values.get("curve") or []) > 1 for name in run.attacks for row in run.rows(name))


def iterations(run: Run, runs: Sequence[Run], style: Style) -> "Figure":
    """One curve per attack, all its seeds together; at its end, as a point, what fresh draws say."""
    figure, axes = plot(style)
    numbers, ends = evaluator_numbers(runs), list[int]()
    seeds = {name: [n for n in run.attacks if family(n) == name] for name in map(family, run.attacks)}
    known = {name: curve([row for one in names for row in run.rows(one)]) for name, names in seeds.items()}
    known = {name: values for name, values in known.items() if len(values) > 1}
    furthest = max(map(len, known.values()))
    for name, values in known.items():
        colour, rounds = style.colour(numbers[name]), range(1, len(values) + 1)
        percents, dashes = [100 * value for value in values], style.dash(numbers[name])
        axes.plot(rounds, percents, color=colour, linestyle=dashes, linewidth=1.7, label=name, zorder=3)
        x = len(values) + furthest * 0.012 * (1 + ends.count(len(values)))  # whiskers side by side
        _, (value, low, high) = fresh([run.rows(one) for one in seeds[name]])
        axes.plot([x, x], [100 * low, 100 * high], color=colour, linewidth=1.1, zorder=2)
        axes.plot(x, 100 * value, MARKERS[numbers[name] % len(MARKERS)], color=colour, markersize=5, zorder=3)
        ends.append(len(values))
    axes.set_xlim(0, furthest * (1.02 + 0.012 * len(ends)))
    axes.set_ylim(0, 101)
    label_axes(axes, "rounds of the attack's loop", "right, % of draws", style)
    legend(axes, list(known), style)
    return figure


def convergence(runs: Sequence[Run]) -> list[Drawn]:
    """Every figure on convergence that the records allow."""
    figures: list[Drawn] = []
    for number, run in enumerate((run for run in runs if has_curves(run)), 1):
        caption = (
            f"{run.name}: what each attack saw in its own loop, the share of its draws that were still right at its "
            "best point so far, averaged over images. The point at its end is the accuracy on fresh draws."
        )
        figures.append(Drawn(f"iterations-{number}", caption, partial(iterations, run, list(runs))))
    for knob, (what, _) in KNOBS.items():
        found = [one for one in series(runs, knob) if one.points]
        if found:
            images = " and ".join(str(n) for n in sorted({one.n for one in found}))
            caption = (
                f"Average accuracy on fresh draws against {what}, all other settings equal; {images} common images, "
                "exact 95 % intervals."
            )
            figures.append(Drawn(f"against-{knob}", caption, partial(series_figure, found, knob)))
    return figures
