"""Has the attack converged? Robust accuracy against its iterations, its EOT draws and its steps."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from common.report.drawing import Drawn, Style, evaluator_numbers, label_axes, legend, plot
from common.report.protocol import attack_name
from common.report.runs import Run, family
from common.report.settings import find
from common.report.tables import Triple
from common.robustness.records import Record, interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KNOBS = {"eot": "EOT draws per step", "steps": "attack steps"}
NOT_THE_ATTACK = ("name", "seed", "draws", "keep_images", "limit", "resubmissions", "threat")
MARKS = "osD^vPX"


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
        axes.plot(x, 100 * value, MARKS[numbers[name] % len(MARKS)], color=colour, markersize=5, zorder=3)
        ends.append(len(values))
    axes.set_xlim(0, furthest * (1.02 + 0.012 * len(ends)))
    axes.set_ylim(0, 101)
    label_axes(axes, "rounds of the attack's loop", "right, % of draws", style)
    legend(axes, list(known), style)
    return figure


def fresh(seeds: Sequence[Sequence[Record]]) -> tuple[int, Triple]:
    """Number of the images that all seeds of an attack saw, and the average accuracy on them, over all seeds."""
    tables = [{row.index: row for row in rows} for rows in seeds]
    common = sorted(set.intersection(*(set(table) for table in tables)))
    if not common:
        return 0, (0.0, 0.0, 1.0)
    right = sum(_right(table[index]) for table in tables for index in common) / len(tables)
    return len(common), (right / len(common), *interval(min(right, len(common)), len(common)))


@dataclass(frozen=True)
class Series:
    """Attacks that differ in one setting alone: its values with the average accuracy on their ``n`` common images."""

    name: str
    n: int
    points: list[tuple[float, Triple]]


def series(runs: Sequence[Run], knob: str) -> list[Series]:
    """Every series over ``knob``, "eot" or "steps", that the headers show: same defence, data, threat and all else."""
    groups: dict[str, list[tuple[float, Run, str]]] = {}
    for run in runs:
        for name in run.attacks:
            part, values = run.part(name), run.rows(name)[0].values
            settings = _values(part.get("attack"), knob)
            if len(settings) != 1:
                continue
            rest = {key: value for key, value in part.items() if key not in NOT_THE_ATTACK}
            key = [_without(rest, knob), values.get("norm"), values.get("eps")]
            key += [find(run.config, "classifier"), run.config.get("data")]
            groups.setdefault(json.dumps(key, sort_keys=True, default=str), []).append((settings.pop(), run, name))
    return [_series(group, knob) for group in groups.values() if len({value for value, _, _ in group}) > 1]


def _series(group: list[tuple[float, Run, str]], knob: str) -> Series:
    common = set.intersection(*({row.index for row in run.rows(name)} for _, run, name in group))
    points = []
    for value in sorted({value for value, _, _ in group}) if common else []:
        seeds = [[row for row in run.rows(name) if row.index in common] for x, run, name in group if x == value]
        points.append((value, fresh(seeds)[1]))
    _, run, name = group[0]
    attack = run.part(name).get("attack", {})
    other = {"eot": "steps", "steps": "EOT"}[knob]
    setting = find(attack, other.lower())
    said = "" if setting is None else f", EOT {setting}" if knob == "steps" else f", {setting} steps"
    defences = " and ".join(dict.fromkeys(run.name for _, run, _ in group))
    return Series(f"{defences}: {attack_name(attack)}{said}", len(common), points)


def _right(row: Record) -> float:
    guesses: list[int] = row.values["predictions"]
    return sum(guess == row.label for guess in guesses) / len(guesses)


def _values(node: Any, knob: str) -> set[float]:
    """All numbers that a described attack, or a part of it, gives to ``knob``."""
    if isinstance(node, Mapping):
        own = {float(node[knob])} if type(node.get(knob)) in (int, float) else set()
        return own.union(*(_values(value, knob) for value in node.values()))
    return set().union(*(_values(value, knob) for value in node)) if isinstance(node, list) else set()


def _without(node: Any, knob: str) -> Any:
    if isinstance(node, Mapping):
        return {key: _without(value, knob) for key, value in node.items() if key != knob}
    return [_without(value, knob) for value in node] if isinstance(node, list) else node


def settings_figure(found: Sequence[Series], knob: str, style: Style) -> "Figure":
    """Average accuracy on fresh draws against one setting, with exact intervals."""
    figure, axes = plot(style)
    values = sorted({value for one in found for value, _ in one.points})
    for number, one in enumerate(found):
        x = [value * 1.025 ** (number - (len(found) - 1) / 2) for value, _ in one.points]  # whiskers side by side
        y = [100 * triple[0] for _, triple in one.points]
        colour = style.colour(number)
        whiskers = [[100 * triple[end] for _, triple in one.points] for end in (1, 2)]
        axes.vlines(x, whiskers[0], whiskers[1], color=colour, linewidth=1.1, zorder=2)
        marker = MARKS[number % len(MARKS)]
        (line,) = axes.plot(x, y, color=colour, marker=marker, markersize=5, label=str(number), zorder=3)
        line.set(linewidth=1.5, linestyle=style.dash(number))
    if values[0] > 0 and values[-1] / values[0] >= 4:
        axes.set_xscale("log", base=2)
    axes.set_xticks(values, [f"{value:g}" for value in values])
    axes.minorticks_off()
    axes.set_ylim(0, 101)
    label_axes(axes, KNOBS[knob], "average accuracy, %", style)
    legend(axes, [one.name for one in found], style)
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
    for knob, what in KNOBS.items():
        found = [one for one in series(runs, knob) if one.points]
        if found:
            images = " and ".join(str(n) for n in sorted({one.n for one in found}))
            caption = (
                f"Average accuracy on fresh draws against {what}, all other settings equal; {images} common images, "
                "exact 95 % intervals."
            )
            figures.append(Drawn(f"against-{knob}", caption, partial(settings_figure, found, knob)))
    return figures
