"""Worst case of several runs over the attacks that all of them met, so that it compares like with like."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from common.records.column_rows import common_images, on_images
from common.records.columns import Values
from common.records.dotted_paths import differences
from common.records.schema import AttackedRecord, Source
from common.records.table import Table
from common.records.worst_case import protocol, worst_case
from common.report.header import expression
from common.report.runs import Budget, Evaluation, Run

NOT_SETTINGS = ("name", "role", "keep_images", "limit")
Attacks = dict[Source, Evaluation[AttackedRecord]]
Conditions = tuple[str, int, str]  # decision rule, votes, knowledge


@dataclass(frozen=True)
class Shared:
    """``worst``: one evaluation per run, all over the same ``attacks`` and images; ``left_out``: others, in words.

    Empty without an attack that all met.
    """

    attacks: list[Source]
    worst: list[Evaluation[AttackedRecord]]
    left_out: list[str]


def shared_worst(runs: Sequence[Run], key: Budget) -> Shared:
    """Worst case within the budget ``key`` of each run, over the attacks and the images that all runs have.

    A minimum over more attacks is lower for equal defences, so an attack counts that every run met with the same
    settings, decision rule and knowledge. Of several rules or kinds of knowledge the one that the attacker of most
    images has, without knowledge of the draws first. An attack on fewer images than others is left out, as in
    `worst_case`.
    """
    met = [_attacks(run, key) for run in runs]
    conditions = [one for one in met[0] if all(one in other for other in met)]
    found = [_over([attacks[one] for attacks in met]) for one in sorted(conditions, key=lambda one: one[2] != "model")]
    chosen = max((one for one in found if one[0]), key=_size, default=None)
    sources: list[Source] = [] if chosen is None else chosen[0]
    left_out = list(_left_out(runs, met, sources))
    return Shared(sources, [] if chosen is None else chosen[1], left_out)


def settings_changed(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Settings of an evaluator, in words, that differ between the headers of two runs; none where one is unknown."""
    parts = [{k: v for k, v in part.items() if k not in NOT_SETTINGS} for part in (first, second)]
    if not all(parts):
        return []
    return [f"{path} {expression(a)} and {expression(b)}" for path, a, b in differences(parts[0], parts[1])]


def listed(names: Sequence[str]) -> str:
    """``"a"``, ``"a and b"``, ``"a, b and c"``."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _size(found: tuple[list[Source], list[Evaluation[AttackedRecord]]]) -> tuple[bool, int]:
    rows = found[1][0].rows
    return rows[0].knows == "model", len(rows)


def _attacks(run: Run, key: Budget) -> dict[Conditions, Attacks]:
    """Attacks of a run within a budget, by the conditions under which they are compared."""
    groups: dict[Conditions, Attacks] = {}
    for one in run.attacks:
        norm, eps, rule, votes, knows = protocol(one.rows[0])
        if (norm, eps) == key:
            groups.setdefault((rule, votes, knows), {})[one.source] = one
    return groups


def _over(runs: Sequence[Attacks]) -> tuple[list[Source], list[Evaluation[AttackedRecord]]]:
    """The attacks of all runs, on most common images, and the worst case of each run over them."""
    first, images = runs[0], dict[Source, Values]()
    for source in first:
        same = [run[source] for run in runs if source in run]
        if len(same) == len(runs) and not any(settings_changed(first[source].part, one.part) for one in same[1:]):
            images[source] = common_images([one.rows for one in same])
    most = max(map(len, images.values()), default=0)
    sources = sorted(source for source, indices in images.items() if most and len(indices) == most)
    if not sources:
        return [], []
    common = reduce(np.intersect1d, [images[source] for source in sources])
    return (sources, [_worst(run, sources, common) for run in runs]) if len(common) else ([], [])


def _worst(attacks: Attacks, sources: Sequence[Source], images: Values) -> Evaluation[AttackedRecord]:
    rows = [on_images(attacks[source].rows, images) for source in sources]
    if len(sources) == 1:
        return Evaluation(sources[0], rows[0], attacks[sources[0]].part)
    (worst,) = worst_case(Table(rows)).select(AttackedRecord)
    return Evaluation(worst.source, worst, {})


def _left_out(
    runs: Sequence[Run], met: Sequence[Mapping[Conditions, Attacks]], sources: Sequence[Source]
) -> Iterator[str]:
    """The attacks of each run that do not count, in words."""
    for run, groups in zip(runs, met, strict=True):
        names = [source.title for attacks in groups.values() for source in attacks if source not in sources]
        if names:
            yield f"{run.name} also met {listed(names)}" if sources else f"{run.name} met {listed(names)}"
