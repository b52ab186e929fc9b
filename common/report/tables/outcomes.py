"""Outcomes of two runs to compare, image by image: their scores, and what their images have in common."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from common.records.column_rows import Rows, all_images, common_places
from common.records.columns import Values
from common.records.paired import Outcomes
from common.records.schema import AttackedRecord, PredictionRecord
from common.records.summary import certified, radius_grid
from common.report.runs import Evaluation, Run
from common.report.shared_attacks import listed
from common.report.tables.certification import Certificates, targets

Seeds = Sequence[Evaluation[Any]]  # the seeds of one evaluator


def common_targets(first: Evaluation[Any], second: Evaluation[Any]) -> list[float] | None:
    """Target radii of both certifiers; None if neither has any."""
    known = [radii for radii in (targets(first), targets(second)) if radii is not None]
    return sorted(set.intersection(*map(set, known))) if known else None


def scores(one: Seeds, other: Seeds, radii: list[float] | None) -> Iterator[tuple[str, Outcomes, Outcomes]]:
    """Scores of one evaluation of two runs, by name, to compare; certificates at ``radii``, or on the grid."""
    if not issubclass(one[0].rows.kind, PredictionRecord):
        yield from _certified_scores(one[0], other[0], radii)
        return
    first, second = pooled(one), pooled(other)
    yield "average", first, second
    draws = np.unique(np.concatenate([first.decisions, second.decisions])).tolist()
    attacked = issubclass(one[0].rows.kind, AttackedRecord)
    if attacked and len(one) == len(other) == 1 and len(draws) == 1 and draws != [1]:
        worst = [_single(rows, rows.correct == rows.decisions) for rows in (first, second)]
        yield f"worst of {draws[0]} draws", worst[0], worst[1]


def _certified_scores(
    one: Certificates, other: Certificates, radii: list[float] | None
) -> Iterator[tuple[str, Outcomes, Outcomes]]:
    for radius in radius_grid(one.rows, other.rows)[1:] if radii is None else radii:
        pair = [_single(side.rows, certified(side.rows, radius)) for side in (one, other)]
        if any(outcomes.correct.any() for outcomes in pair):
            yield f"certified at {radius:g}", pair[0], pair[1]


def _single(rows: Outcomes | Rows[Any], right: Values) -> Outcomes:
    """Outcomes of one decision on each image."""
    images = rows.index if isinstance(rows, Outcomes) else rows.image
    return Outcomes(images, rows.label, right.astype(np.int64), np.ones(len(right), np.int64))


def pooled(seeds: Seeds) -> Outcomes:
    """Outcomes of the decisions of all seeds together, on the images that every seed evaluated."""
    return Outcomes.pooled([seed.rows for seed in seeds])


def is_same(first: Run, second: Run) -> bool:
    """True if one run holds the rows of the other, as a copy of it or a part of it does."""
    if first.fingerprint != second.fingerprint:
        return False
    less, more = sorted((run.table for run in (first, second)), key=len)
    known = {(rows.source, rows.kind): rows for rows in more.parts}
    return all(_holds(known.get((rows.source, rows.kind)), rows) for rows in less.parts)


def _holds(more: Rows[Any] | None, less: Rows[Any]) -> bool:
    """True if the rows ``less`` are among the rows ``more``."""
    if more is None or len(more) < len(less):
        return False
    one, two = common_places(less, more)
    return len(one) == len(less) and bool(less.same(one, two, more).all())


def unequal_images(pair: tuple[Run, Run], evaluated: Sequence[tuple[Seeds, Seeds]]) -> Iterator[str]:
    """Notes on evaluations of which one run has more images than the other: it may be unfinished."""
    counts: dict[tuple[int, ...], list[str]] = {}
    for seeds in evaluated:
        first, second = (all_images([one.rows for one in each]) for each in seeds)
        if not np.array_equal(first, second):
            sizes = (len(np.intersect1d(first, second, assume_unique=True)), len(first), len(second))
            counts.setdefault(sizes, []).append(seeds[0][0].name)
    for (common, ours, theirs), names in counts.items():
        yield (
            f"{pair[0].name} has {ours} and {pair[1].name} {theirs} images in {listed(names)}, {common} in common: "
            "a run may be unfinished."
        )
