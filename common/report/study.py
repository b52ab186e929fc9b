"""What a study found: a table of every combination's scores, and each score against what was varied."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from common.experiments.study import Study, Values, numeric
from common.records.store import certified_share, radius_grid
from common.report.figures.drawing import MARKERS, Drawn, Style, label_axes, legend, new_figure, plain_axes
from common.report.header import budget
from common.report.runs import Run
from common.report.tables.certification import evaluations, targets
from common.report.tables.scores import average
from common.report.tables.table import Entry, Table, Triple

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HEIGHT = 3.0  # of a panel, in inches


@dataclass(frozen=True)
class Outcome:
    """One combination's ``scores`` by name, on ``n`` images, and its network evaluations per image, if known."""

    case: str
    values: Values
    n: int
    scores: dict[str, Triple]
    evaluations: float | None


def outcomes(study: Study, runs: Sequence[Run]) -> list[Outcome]:
    """What the runs found whose names are those of combinations, in the order of the study."""
    known = {run.name.rsplit("/", 1)[-1]: run for run in runs}
    found = []
    for one in study.combinations:
        if one.name in known and known[one.name].summaries:
            run = known[one.name]
            n = max(summary.n for summary in run.summaries)
            found.append(Outcome(one.case, one.values, n, scores(run), _evaluations(run)))
    return found


def scores(run: Run) -> dict[str, Triple]:
    """Clean accuracy, accuracy under each attack and the worst of them, with draws' average and worst; certified."""
    found = {summary.evaluator: summary.metrics["Avg"] for summary in run.of_kind(0)}
    worst = {name: f"worst attack, {budget(*key)}" for key, name in run.worst_names.items() if name not in run.attacks}
    for summary in run.of_kind(1):
        name = worst.get(summary.evaluator, summary.evaluator)
        if not found and "clean Avg" in summary.metrics:
            found["clean"] = summary.metrics["clean Avg"]
        found[name] = average(run.rows(summary.evaluator))
        several = [key for key in summary.metrics if key.startswith("Wor@")]
        found |= {f"{name}, worst of {key[4:]}": summary.metrics[key] for key in several}
    for summary in run.of_kind(2):
        rows = run.rows(summary.evaluator)
        for radius in targets(run, summary.evaluator) or radius_grid(rows):
            found[f"{summary.evaluator} at {radius:g}"] = certified_share(rows, radius)
    return found


def study_table(study: Study, found: Sequence[Outcome]) -> Table:
    """A row per combination."""
    names = list(dict.fromkeys(name for one in found for name in one.scores))
    cases, axes = any(one.case for one in found), [name for name, _ in found[0].values] if found else []
    rows: list[list[Entry]] = [
        [
            *([one.case] if cases else []),
            *(str(value) for _, value in one.values),
            one.n,
            *(one.scores.get(name) for name in names),
            None if one.evaluations is None else f"{one.evaluations:,.0f}",
        ]
        for one in found
    ]
    columns = [*(["Case"] if cases else []), *axes, "Images", *names, "Evaluations per image"]
    notes = [] if len(found) == len(study.combinations) else [f"{len(found)} of {len(study.combinations)} runs so far."]
    return Table(study.title, columns, rows, names=cases + len(axes), notes=notes)


def study_figures(study: Study, found: Sequence[Outcome]) -> list[Drawn]:
    """The scores along the first axis, a panel each and a line for each combination of all else; bars without one."""
    if not found:
        return []
    caption = f"{study.title} Whiskers are exact 95 % intervals."
    figures = [Drawn(study.name, caption, partial(panels, found))]
    robust = [name for name in _names(found) if "worst" not in name]
    if len(robust) == 2 and len(found) > 1:
        said = f"{study.title} {robust[1]} against {robust[0]}."
        figures.append(Drawn(f"{study.name}-plane", said, partial(trade_off, found, robust)))
    return figures


def panels(found: Sequence[Outcome], style: Style) -> "Figure":
    """One panel a score."""
    from matplotlib.figure import Figure

    names = _names(found)
    columns = 2 if len(names) > 1 and style.width > 5 else 1
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(style.width, HEIGHT * rows))
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    figure.subplots_adjust(hspace=0.42, wspace=0.22)
    groups = lines(found)
    for axes, name in zip(grid, names, strict=False):
        plain_axes(axes, style)
        axes.grid(color=style.line, linewidth=0.6, zorder=0)
        for number, group in enumerate(groups.values()):
            _line(axes, [one for one in group if name in one.scores], name, number, style)
        axes.set_title(name, loc="left", color=style.ink, fontsize=9.5, parse_math=False)
        _ticks(axes, found, style)
    for axes in grid[len(names) :]:
        axes.set_visible(False)
    if len(groups) > 1:
        legend(grid[(rows - 1) * columns], list(groups), style)
    return figure


def trade_off(found: Sequence[Outcome], names: Sequence[str], style: Style) -> "Figure":
    """The second score against the first: a line per group along the axis, its values beside the points."""
    figure, axes = new_figure(style.width, 0.55 * style.width)
    plain_axes(axes, style)
    axes.grid(color=style.line, linewidth=0.6, zorder=0)
    groups = lines(found)
    for number, group in enumerate(groups.values()):
        points = [(100 * one.scores[names[0]][0], 100 * one.scores[names[1]][0], one) for one in group]
        mark = MARKERS[number % len(MARKERS)]
        line: dict[str, Any] = {"color": style.colour(number), "marker": mark, "linewidth": 1.4, "label": str(number)}
        axes.plot([x for x, _, _ in points], [y for _, y, _ in points], **line)
        for x, y, one in points if one_axis(found) else []:
            text = str(one.values[0][1])
            axes.annotate(text, (x, y), (4, 4), textcoords="offset points", color=style.soft, fontsize=7.5)
    label_axes(axes, f"{names[0]}, %", f"{names[1]}, %", style)
    if len(groups) > 1:
        legend(axes, list(groups), style)
    return figure


def one_axis(found: Sequence[Outcome]) -> bool:
    """Whether anything was varied."""
    return bool(found and found[0].values)


def lines(found: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    """The outcomes that differ in the first axis alone, by what they share; without an axis all are one line."""
    groups: dict[str, list[Outcome]] = {}
    for one in found:
        shared = [*([one.case] if one.case and one.values else []), *(f"{n} {v}" for n, v in one.values[1:])]
        groups.setdefault(", ".join(shared), []).append(one)
    return groups


def _line(axes: "Axes", group: Sequence[Outcome], name: str, number: int, style: Style) -> None:
    places = [_place(one, group) for one in group]
    value, low, high = ([100 * one.scores[name][k] for one in group] for k in range(3))
    below, above = ([abs(a - b) for a, b in zip(value, ends, strict=True)] for ends in (low, high))
    joined = "-" if one_axis(group) else "none"
    axes.errorbar(
        places, value, yerr=[below, above], color=style.colour(number), marker=MARKERS[number % len(MARKERS)],
        markersize=5, linewidth=1.5, linestyle=joined, elinewidth=0.9, zorder=3,
        label=str(number),
    )  # fmt: skip


def _place(one: Outcome, group: Sequence[Outcome]) -> float:
    """Where on the axis: at its number, or in its turn."""
    if one_axis(group) and numeric([other.values[0][1] for other in group]):
        return float(one.values[0][1])
    return float([_said(other) for other in group].index(_said(one)))


def _ticks(axes: "Axes", found: Sequence[Outcome], style: Style) -> None:
    said = list(dict.fromkeys(_said(one) for one in found))
    values: list[Any] = [one.values[0][1] for one in found] if one_axis(found) else []
    if values and numeric(values):
        ordered = sorted(set(map(float, values)))
        if ordered[0] > 0 and ordered[-1] >= 8 * ordered[0]:
            axes.set_xscale("log")
        axes.set_xticks(ordered, [f"{value:g}" for value in ordered])
        axes.minorticks_off()
    else:
        axes.set_xticks(range(len(said)), said)
    label_axes(axes, found[0].values[0][0] if values else "", "%", style)


def _said(one: Outcome) -> str:
    return str(one.values[0][1]) if one.values else one.case


def _names(found: Sequence[Outcome]) -> list[str]:
    return list(dict.fromkeys(name for one in found for name in one.scores))


def _evaluations(run: Run) -> float | None:
    counts = [evaluations(run.rows(summary.evaluator)) for summary in run.of_kind(2)]
    return None if not counts or any(count is None for count in counts) else max(c for c in counts if c is not None)
