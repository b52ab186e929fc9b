"""Parsed lines as columns: rows with the same keys together, each key validated as one column."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any, TypeVar

import numpy as np

from common.records.column_fields import COSTS, KEY, Unfit, column_fields, floats, integers
from common.records.column_rows import Rows, filled, unknown_costs
from common.records.column_rules import obey
from common.records.columns import Values
from common.records.fields import LARGEST_INTEGER
from common.records.header_column_rules import follow
from common.records.header_rules import HeaderRules
from common.records.schema import KINDS, LONGEST_NAME, Record, Role, Source

T = TypeVar("T")
Parsed = dict[str, Any]
ROLES = {role.value: role for role in Role if role is not Role.WORST_CASE}


def parts_of(rows: Sequence[Parsed], rules: HeaderRules, file: int, line: int) -> list[Rows[Any]] | None:
    """Rows of each evaluation and set of keys; None unless all are as the writer leaves them and obey every rule.

    ``file`` is the number of the file, ``line`` that of the first row.
    """
    try:
        found: list[Rows[Any]] = []
        for kind, of_kind in _grouped(list(map(itemgetter("kind"), rows))):
            for keys, members in _grouped(list(map(tuple, _some(rows, of_kind)))):
                chosen = _some(of_kind, members)
                columns = _columns(keys, _some(rows, chosen))
                places = np.stack([np.full(len(chosen), file), np.array(chosen) + line], axis=1)
                found += _evaluations(KINDS[kind], columns, places)
    except (ValueError, KeyError, TypeError):  # ``Unfit`` among them
        return None
    return found if all(follow(part, rules) for part in found) else None


def _grouped(keys: Sequence[Any]) -> Iterable[tuple[Any, Sequence[int]]]:
    """Each key with the numbers of its entries, in the order of its first."""
    if len(set(keys)) == 1:
        return [(keys[0], range(len(keys)))]
    groups: dict[Any, list[int]] = defaultdict(list)
    for place, key in enumerate(keys):
        groups[key].append(place)
    return groups.items()


def _some(entries: Sequence[T], places: Sequence[int]) -> Sequence[T]:
    """Entries at some places, which ascend."""
    return entries if len(places) == len(entries) else [entries[place] for place in places]


def _columns(keys: Sequence[str], alike: Sequence[Parsed]) -> dict[str, Sequence[Any]]:
    """Values by key, of objects with the same keys in the same order."""
    return dict(zip(keys, zip(*map(dict.values, alike), strict=True), strict=True))


def _evaluations(kind: type[Record], columns: Mapping[str, Sequence[Any]], places: Values) -> Iterator[Rows[Any]]:
    fields, n = column_fields(kind), len(places)
    if columns.keys() - fields.keys() - {*KEY, "cost", "kind", "crc"}:
        raise Unfit
    given = {name: field.read(columns[name]) for name, field in fields.items() if name in columns}
    costs = _costs(columns["cost"]) if "cost" in columns else unknown_costs(n)
    rows = Rows(kind, Source(""), filled(kind, given, n), costs, places)
    if not obey(rows):
        raise Unfit
    for source, members in _sources(columns, n):
        part = rows if len(members) == n else rows.take(np.array(members))
        yield Rows(kind, source, part.columns, part.costs, part.places)


def _sources(columns: Mapping[str, Sequence[Any]], n: int) -> Iterator[tuple[Source, Sequence[int]]]:
    """Evaluations of the rows, each with the numbers of its rows."""
    names, seeds = columns["evaluator"], columns.get("seed", (0,) * n)
    roles = columns.get("role", (Role.RESULT.value,) * n)
    if set(map(type, names)) != {str} or min(integers(seeds)) < 0:
        raise Unfit
    for (name, seed, role), members in _grouped(list(zip(names, seeds, roles, strict=True))):
        if not 0 < len(name) <= LONGEST_NAME or not (name.isascii() or name.encode()):
            raise Unfit
        yield Source(name, seed, ROLES[role]), members


def _costs(values: Sequence[Any]) -> Values:
    """Costs (n, 3) of parsed rows."""
    if set(map(type, values)) != {dict}:
        raise Unfit
    costs: Values = np.full((len(values), len(COSTS)), np.nan)
    for names, members in _grouped(list(map(tuple, values))):
        for name, column in _columns(names, _some(values, members)).items():
            numbers = (integers if name == "peak_bytes" else floats)(column)
            if numbers.min() < 0 or numbers.max() > LARGEST_INTEGER:
                raise Unfit
            costs[slice(None) if len(members) == len(values) else members, COSTS.index(name)] = numbers
    return costs
