"""Series of attacks that differ in a single setting, read from the headers: accuracy against that setting."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from common.records.column_rows import Rows, common_images, on_images
from common.records.intervals import Share, share
from common.records.schema import AttackedRecord, Role
from common.records.summary import correct_shares
from common.report.figures.drawing import MARKERS, Style, label_axes, legend, plot
from common.report.header import budget, find, ratio
from common.report.runs import Evaluation, Run
from common.report.tables.protocol import attack_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

SETTINGS = {  # in a caption, and on an axis
    "eot": ("EOT draws per step", "EOT draws per step"),
    "steps": ("the attack's steps", "attack steps"),
    "eps": ("the budget (a large enough one breaks every defence)", "budget eps"),
}
NOT_THE_ATTACK = ("name", "role", "seed", "draws", "keep_images", "limit", "resubmissions", "threat")
SEPARATE = ("gradient", "source")  # parts of an attack whose settings are not the attack's
Member = tuple[float, Run, Evaluation[AttackedRecord]]  # with its value of the setting


@dataclass(frozen=True)
class Series:
    """Attacks that differ in one setting: its values with the average accuracy on their ``n`` common images."""

    name: str
    n: int
    points: list[tuple[float, Share]]


def series(runs: Sequence[Run], setting: str) -> list[Series]:
    """Every series over ``setting`` (a key of `SETTINGS`): same defence, data, threat and all other settings.

    Variants of the masking checks fill in where the attacks do not vary. A step size may grow with the budget.
    """
    groups: dict[str, list[Member]] = {}
    for run in runs:
        for attack in [*run.attacks, *run.comparisons]:
            row, part = attack.rows[0], attack.part
            values = {row.eps} if setting == "eps" else _values(part.get("attack"), setting)
            if len(values) != 1 or row.role is Role.BASELINE or "attack" not in part:
                continue
            rest = _without({key: value for key, value in part.items() if key not in NOT_THE_ATTACK}, setting)
            key = [_without(rest, "step_size"), None] if setting == "eps" else [rest, row.eps]
            key += [row.norm, find(run.config, "classifier"), run.config.get("data")]
            groups.setdefault(json.dumps(key, sort_keys=True, default=str), []).append((values.pop(), run, attack))
    results = [[member for member in group if member[2].source.role is Role.RESULT] for group in groups.values()]
    chosen = [own if _varies(own) else group for own, group in zip(results, groups.values(), strict=True)]
    return [_series(group, setting) for group in chosen if _varies(group)]


def _varies(group: Sequence[Member]) -> bool:
    return len({value for value, _, _ in group}) > 1


def _series(group: Sequence[Member], setting: str) -> Series:
    common = common_images([attack.rows for _, _, attack in group])
    points = []
    for value in sorted({value for value, _, _ in group}) if len(common) else []:
        seeds = [on_images(attack.rows, common) for x, _, attack in group if x == value]
        points.append((value, common_average(seeds)[1]))
    part, row = group[0][2].part["attack"], group[0][2].rows[0]
    shown = [attack_name(part)]
    shown += [f"{count} steps" for count in [find(part, "steps")] if count is not None and setting != "steps"]
    shown += [f"EOT {count}" for count in [find(part, "eot")] if count is not None and setting != "eot"]
    shown += [budget(row.norm, row.eps)] if setting != "eps" else []
    defences = " and ".join(dict.fromkeys(run.name for _, run, _ in group))
    return Series(f"{defences}: {', '.join(shown)}", len(common), points)


def common_average(seeds: Sequence[Rows[AttackedRecord]]) -> tuple[int, Share]:
    """Number of images that all seeds of an attack attacked, and the average accuracy on them, over all seeds."""
    common = common_images(seeds)
    if not len(common):
        return 0, (0.0, 0.0, 1.0)
    shares = [correct_shares(rows.lists("predictions"), rows.label) for rows in (on_images(s, common) for s in seeds)]
    return len(common), share(math.fsum(np.concatenate(shares).tolist()) / len(seeds), len(common))


def _values(node: Any, setting: str) -> set[float]:
    """All numbers that a described attack, or a part of it, gives to ``setting``."""
    if isinstance(node, Mapping):
        own = {float(node[setting])} if type(node.get(setting)) in (int, float) else set()
        return own.union(*(_values(value, setting) for key, value in node.items() if key not in SEPARATE))
    return set().union(*(_values(value, setting) for value in node)) if isinstance(node, list) else set()


def _without(node: Any, setting: str) -> Any:
    if isinstance(node, Mapping):
        kept = {key: value for key, value in node.items() if key != setting}
        return {key: value if key in SEPARATE else _without(value, setting) for key, value in kept.items()}
    return [_without(value, setting) for value in node] if isinstance(node, list) else node


def series_plot(groups: Sequence[Series], setting: str, style: Style) -> "Canvas":
    """Average accuracy on fresh draws against one setting, with exact intervals."""
    figure, axes = plot(style)
    values = sorted({value for group in groups for value, _ in group.points})
    for number, group in enumerate(groups):
        shift = 1.025 ** (number - (len(groups) - 1) / 2)  # whiskers side by side
        x, y = ([value * shift for value, _ in group.points], [100 * shown[0] for _, shown in group.points])
        whiskers = [[100 * shown[end] for _, shown in group.points] for end in (1, 2)]
        axes.vlines(x, whiskers[0], whiskers[1], color=style.colour(number), linewidth=1.1, zorder=2)
        marker = MARKERS[number % len(MARKERS)]
        (line,) = axes.plot(x, y, color=style.colour(number), marker=marker, markersize=5, label=str(number), zorder=3)
        line.set(linewidth=1.5, linestyle=style.dash(number))
    if values[0] > 0 and values[-1] / values[0] >= 4:
        axes.set_xscale("log", base=2)
    axes.set_xticks(values, [ratio(value) if setting == "eps" else f"{value:g}" for value in values])
    axes.minorticks_off()
    axes.set_ylim(0, 101)
    label_axes(axes, SETTINGS[setting][1], "average accuracy, %", style)
    legend(axes, [group.name for group in groups], style)
    return figure
