"""Merging of rows: one row per key, where rows of one key must agree."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.numerics.finding import Finding
from common.records.column_rows import Rows
from common.records.rows import places, record_line, values
from common.records.schema import Record, Source
from common.records.table import Table


def merged(parts: Iterable[Rows[Any]], path: Path | None = None) -> Table:
    """One row per key, sorted by it. Rows of one key must agree: floats to 1e-4, all else but images exactly.

    Two processes may have evaluated one image in different batches, where convolutions round differently. ``path`` has
    the files that the error for rows which disagree names. The parts are emptied.
    """
    groups: dict[tuple[Source, type[Record]], list[Rows[Any]]] = defaultdict(list)
    for part in parts:
        groups[part.source, part.kind].append(part)
    found: list[Rows[Any]] = []
    while groups:
        found.append(_one_per_image(Rows.joined(groups.pop(next(iter(groups)))), path))
    _check_kinds(found, path)
    return Table(found)


def _one_per_image(rows: Rows[Any], path: Path | None) -> Rows[Any]:
    """Rows of one evaluation by index, one of each; among equal rows the first that has a cost."""
    if (np.diff(rows.image) > 0).all():
        return rows
    order = np.argsort(rows.image, kind="stable")
    first = np.concatenate([[True], np.diff(rows.image[order]) != 0])  # of its image
    if first.all():
        return rows.take(order)
    image = np.cumsum(first) - 1
    chosen, known = order[first], np.flatnonzero(~np.isnan(rows.costs[order]).all(1))
    chosen[image[known[::-1]]] = order[known[::-1]]  # of several assignments the last one stays
    again = np.flatnonzero(~first)
    unequal = np.unique(image[again[~rows.same(order[again - 1], order[again])]])
    ends = np.append(np.flatnonzero(first), len(order))
    for place in unequal.tolist():
        chosen[place] = _agreed(rows, order[ends[place] : ends[place + 1]].tolist(), path)
    return rows.take(chosen)


def _agreed(rows: Rows[Any], numbers: Sequence[int], path: Path | None) -> int:
    """Number of the row that stands for unequal rows of one key: the first in the order of their lines."""
    kept = numbers[0]
    for number in numbers[1:]:
        one, other = rows[kept], rows[number]
        if not agree(one, other):
            raise _disagreement(one, other, path)
        kept = min((kept, number), key=lambda row: (record_line(rows[row], cost=False), rows[row].cost is None))
    return kept


def _check_kinds(parts: Sequence[Rows[Any]], path: Path | None) -> None:
    """Raise ``ValueError`` for two rows of one key that are of different kinds."""
    kinds: dict[Source, Rows[Any]] = {}
    for rows in parts:
        known = kinds.setdefault(rows.source, rows)
        if known is not rows and (common := np.intersect1d(known.image, rows.image)).size:
            one, other = (part[int(np.flatnonzero(part.image == common[0])[0])] for part in (known, rows))
            raise _disagreement(one, other, path)


def _disagreement(one: Record, other: Record, path: Path | None) -> ValueError:
    where = "" if path is None else f" They are in {places(path, one.key)}."
    return ValueError(
        f"two records of {one.evaluator!r}, image {one.index}, disagree: {brief(one)} and {brief(other)}.{where}"
        " One was made with other data, weights or code: delete all these lines and run the same test again, "
        "which evaluates the image anew."
    )


def agree(first: Record, second: Record) -> bool:
    """True if two rows of one key are the same: floats to 1e-4, all else but images and cost exactly."""
    return first.kind is second.kind and _agree(_numbers(first), _numbers(second))


def brief(record: Record) -> str:
    """The beginning of a row's line, for messages."""
    return record_line(record, cost=False).decode().strip()[:160]


def _numbers(record: Record) -> dict[str, Any]:
    return {name: value for name, value in values(record).items() if name != "images"}


def _agree(first: Any, second: Any) -> bool:
    if isinstance(first, Finding) and isinstance(second, Finding):
        return _agree(first.values(), second.values())
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(_agree(first[name], second[name]) for name in first)
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(_agree, first, second))
    if isinstance(first, float) and isinstance(second, float):
        return math.isclose(first, second, rel_tol=1e-4, abs_tol=1e-6)
    return type(first) is type(second) and bool(first == second)
