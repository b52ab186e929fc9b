"""Lines that differ in numbers alone, read at once: all numbers of a block as one array, the text around them once.

The pattern of a line is its text without digits and signs. Lines of one pattern have the same keys, flags and lengths
of lists; the texts that hold digits are compared. What is unusual is left to `common.records.row_columns`.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cache
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np

from common.records.blocks import NEWLINE, objects
from common.records.column_fields import COSTS, KEY, Unfit, column_fields, smallest_type
from common.records.column_rows import Rows, filled, unknown_costs
from common.records.column_rules import obey
from common.records.columns import Column, Lists, Values, constant
from common.records.fields import LARGEST_INTEGER
from common.records.header_column_rules import follow
from common.records.header_rules import HeaderRules
from common.records.line_templates import Template, template_of
from common.records.number_texts import runs_of
from common.records.row_columns import ROLES, parts_of
from common.records.rows import SEAL
from common.records.schema import KINDS, LONGEST_NAME, Kind, Role, Source

FEW = 8  # lines of a pattern that are not worth it


def alike_parts(block: bytes, rules: HeaderRules, file: int, line: int) -> list[Rows[Any]] | None:
    """Rows of sealed whole lines, as `parts_of`; None unless all are as the writer leaves them and obey every rule."""
    plain, count = b"\\" not in block, block.count(NEWLINE)
    whole = _rows(block, np.arange(count) + line, file, rules) if plain else None
    if whole is not None:
        return [whole]
    lines, found, rest = block[:-1].split(NEWLINE), list[Rows[Any]](), list[int]()
    for numbers in _groups(lines) if plain else [range(count)]:
        again = len(numbers) == count
        part = b"" if again else b"".join(lines[number] + NEWLINE for number in numbers)
        rows = None if again else _rows(part, np.array(numbers) + line, file, rules)
        if rows is None:
            rest += numbers
        else:
            found.append(rows)
    others = _others(lines, sorted(rest), rules, (file, line)) if rest else []
    return None if others is None else found + others


def _groups(lines: Sequence[bytes]) -> Iterable[Sequence[int]]:
    """Numbers of the lines of each pattern, which is their text without digits, signs and checksum."""
    bodies = NEWLINE.join([line[:-SEAL] for line in lines])
    groups = defaultdict[bytes, list[int]](list)
    for number, pattern in enumerate(bodies.translate(None, b"0123456789-").split(NEWLINE)):
        groups[pattern].append(number)
    return groups.values()


def _others(
    lines: Sequence[bytes], numbers: Sequence[int], rules: HeaderRules, place: tuple[int, int]
) -> list[Rows[Any]] | None:
    """Rows of some of the lines, parsed as objects."""
    parsed = objects(b"".join(lines[number] + NEWLINE for number in numbers))
    parts = None if parsed is None else parts_of(parsed, rules, place[0], 0)
    if parts is None:
        return None
    for part in parts:
        part.places[:, 1] = np.array(numbers)[part.places[:, 1]] + place[1]
    return parts


def _rows(block: bytes, lines: Values, file: int, rules: HeaderRules) -> Rows[Any] | None:
    """Rows of lines of one pattern; None unless they obey every rule of rows and of their header."""
    m = len(lines)
    runs = None if m < FEW else runs_of(block)
    if runs is None:
        return None
    try:
        template = template_of(runs)
        kind = KINDS[template.constants["kind"]]
        columns, source = _columns(template, kind.kind, m), _source(template)
        costs = _costs(template, m) if template.costs else unknown_costs(m)
        rows = Rows(kind, source, filled(kind, columns, m), costs, np.stack([np.full(m, file), lines], axis=1))
        return rows if obey(rows) and follow(rows, rules) else None
    except (ValueError, KeyError, TypeError):  # ``Unfit`` among them
        return None


def _columns(template: Template, kind: Kind, m: int) -> dict[str, Column]:
    types, fields = _types(kind), column_fields(KINDS[kind.value])
    columns: dict[str, Column] = {}
    for name, value in template.constants.items():
        if name in fields:
            column = fields[name].read([value])
            if isinstance(column, Lists):
                raise Unfit
            columns[name] = constant(column, m)
        elif name not in (*KEY, "kind"):
            raise Unfit
    for name, numbers in template.numbers.items():
        if name == "seed":
            continue
        one, listed, optional = types[name]
        found = numbers.of(one, listed)
        if listed:
            lengths = constant(np.array([found.shape[1]]), m)
            columns[name] = Lists(found.reshape(-1).astype(smallest_type(found)), lengths)
        elif optional and one is int and found.min() < 0:
            raise Unfit
        else:
            columns[name] = found
    return columns


def _source(template: Template) -> Source:
    """The evaluation, one of all rows. Raises ``ValueError`` or ``KeyError`` for what is none."""
    name, role = template.constants["evaluator"], template.constants.get("role", Role.RESULT.value)
    seeds = template.numbers["seed"].of(int) if "seed" in template.numbers else np.zeros(1, np.int64)
    if not isinstance(name, str) or not 0 < len(name) <= LONGEST_NAME or seeds.min() < 0 or (seeds != seeds[0]).any():
        raise Unfit
    return Source(name, int(seeds[0]), ROLES[role])


def _costs(template: Template, m: int) -> Values:
    costs: Values = np.full((m, len(COSTS)), np.nan)
    for name, numbers in template.costs.items():
        found = numbers.of(int if name == "peak_bytes" else float)
        if found.min() < 0 or found.max() > LARGEST_INTEGER:
            raise Unfit
        costs[:, COSTS.index(name)] = found
    return costs


@cache
def _types(kind: Kind) -> dict[str, tuple[Any, bool, bool]]:
    """Type of each field's numbers, True for lists of them, True where they may be unknown."""
    found = {}
    for name, declared in get_type_hints(KINDS[kind.value]).items():
        optional = NoneType in get_args(declared)
        inner = next(part for part in get_args(declared) if part is not NoneType) if optional else declared
        listed = get_origin(inner) is list
        found[name] = (get_args(inner)[0] if listed else inner, listed, optional)
    return found
