"""Series of attacks that differ in a single setting, found in the headers: what survives more of it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from common.records.store import Record, interval
from common.report.figures.drawing import MARKERS, Style, label_axes, legend, plot
from common.report.header import budget, find, ratio
from common.report.runs import Run
from common.report.tables.protocol import attack_name
from common.report.tables.table import Triple

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KNOBS = {  # in words, and on an axis
    "eot": ("EOT draws per step", "EOT draws per step"),
    "steps": ("the attack's steps", "attack steps"),
    "eps": ("the budget (a large enough one breaks every defence)", "budget eps"),
}
NOT_THE_ATTACK = ("name", "seed", "draws", "keep_images", "limit", "resubmissions", "threat")
OWN = ("gradient", "source")  # parts of an attack whose settings are not the attack's
Member = tuple[float, Run, str]  # value of the setting, run, evaluator


@dataclass(frozen=True)
class Series:
    """Attacks that differ in one setting alone: its values with the average accuracy on their ``n`` common images."""

    name: str
    n: int
    points: list[tuple[float, Triple]]


def series(runs: Sequence[Run], knob: str) -> list[Series]:
    """Every series over ``knob`` (a key of `KNOBS`) in the headers: same defence, data, threat and all else.

    Attacks that only serve the checks fill in where the others do not vary. Along the budget a step size may grow too.
    """
    groups: dict[str, list[Member]] = {}
    for run in runs:
        for name in [*run.attacks, *(summary.evaluator for summary in run.probes)]:
            part, values = run.part(name), run.rows(name)[0].values
            found = {float(values.get("eps") or 0)} if knob == "eps" else _values(part.get("attack"), knob)
            if len(found) != 1 or "baseline" in values or "attack" not in part:
                continue
            rest = _without({key: value for key, value in part.items() if key not in NOT_THE_ATTACK}, knob)
            key = [_without(rest, "step_size"), None] if knob == "eps" else [rest, values.get("eps")]
            key += [values.get("norm"), find(run.config, "classifier"), run.config.get("data")]
            groups.setdefault(json.dumps(key, sort_keys=True, default=str), []).append((found.pop(), run, name))
    own = [[member for member in group if member[2] in member[1].attacks] for group in groups.values()]
    chosen = [some if _varies(some) else group for some, group in zip(own, groups.values(), strict=True)]
    return [_series(group, knob) for group in chosen if _varies(group)]


def _varies(group: Sequence[Member]) -> bool:
    return len({value for value, _, _ in group}) > 1


def _series(group: Sequence[Member], knob: str) -> Series:
    common = set.intersection(*({row.index for row in run.rows(name)} for _, run, name in group))
    points = []
    for value in sorted({value for value, _, _ in group}) if common else []:
        seeds = [[row for row in run.rows(name) if row.index in common] for x, run, name in group if x == value]
        points.append((value, fresh(seeds)[1]))
    _, run, name = group[0]
    attack, values = run.part(name)["attack"], run.rows(name)[0].values
    said = [f"{attack_name(attack)}"]
    said += [f"{count} steps" for count in [find(attack, "steps")] if count is not None and knob != "steps"]
    said += [f"EOT {count}" for count in [find(attack, "eot")] if count is not None and knob != "eot"]
    said += [budget(values.get("norm"), values.get("eps"))] if knob != "eps" else []
    defences = " and ".join(dict.fromkeys(run.name for _, run, _ in group))
    return Series(f"{defences}: {', '.join(filter(None, said))}", len(common), points)


def fresh(seeds: Sequence[Sequence[Record]]) -> tuple[int, Triple]:
    """Number of the images that all seeds of an attack saw, and the average accuracy on them, over all seeds."""
    tables = [{row.index: row for row in rows} for rows in seeds]
    common = sorted(set.intersection(*(set(table) for table in tables)))
    if not common:
        return 0, (0.0, 0.0, 1.0)
    right = sum(_right(table[index]) for table in tables for index in common) / len(tables)
    return len(common), (right / len(common), *interval(min(right, len(common)), len(common)))


def _right(row: Record) -> float:
    guesses: list[int] = row.values["predictions"]
    return sum(guess == row.label for guess in guesses) / len(guesses)


def _values(node: Any, knob: str) -> set[float]:
    """All numbers that a described attack, or a part of it, gives to ``knob``."""
    if isinstance(node, Mapping):
        own = {float(node[knob])} if type(node.get(knob)) in (int, float) else set()
        return own.union(*(_values(value, knob) for key, value in node.items() if key not in OWN))
    return set().union(*(_values(value, knob) for value in node)) if isinstance(node, list) else set()


def _without(node: Any, knob: str) -> Any:
    if isinstance(node, Mapping):
        kept = {key: value for key, value in node.items() if key != knob}
        return {key: value if key in OWN else _without(value, knob) for key, value in kept.items()}
    return [_without(value, knob) for value in node] if isinstance(node, list) else node


def series_figure(found: Sequence[Series], knob: str, style: Style) -> "Figure":
    """Average accuracy on fresh draws against one setting, with exact intervals."""
    figure, axes = plot(style)
    values = sorted({value for one in found for value, _ in one.points})
    for number, one in enumerate(found):
        x = [value * 1.025 ** (number - (len(found) - 1) / 2) for value, _ in one.points]  # whiskers side by side
        y = [100 * triple[0] for _, triple in one.points]
        colour = style.colour(number)
        whiskers = [[100 * triple[end] for _, triple in one.points] for end in (1, 2)]
        axes.vlines(x, whiskers[0], whiskers[1], color=colour, linewidth=1.1, zorder=2)
        marker = MARKERS[number % len(MARKERS)]
        (line,) = axes.plot(x, y, color=colour, marker=marker, markersize=5, label=str(number), zorder=3)
        line.set(linewidth=1.5, linestyle=style.dash(number))
    if values[0] > 0 and values[-1] / values[0] >= 4:
        axes.set_xscale("log", base=2)
    axes.set_xticks(values, [ratio(value) if knob == "eps" else f"{value:g}" for value in values])
    axes.minorticks_off()
    axes.set_ylim(0, 101)
    label_axes(axes, KNOBS[knob][1], "average accuracy, %", style)
    legend(axes, [one.name for one in found], style)
    return figure
