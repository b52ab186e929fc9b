"""Lines that differ in numbers alone, read at once: all numbers of a block as one array, the text around them once.

The pattern of a line is its text without digits and signs. Lines of one pattern have the same keys, flags and lengths
of lists; the texts that hold digits are compared. What is unusual is left to `common.records.row_columns`.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np

from common.records.blocks import NEWLINE, objects
from common.records.column_fields import COSTS, KEY, Unfit, column_fields, round_column, smallest_type
from common.records.column_rows import Rows, filled, unknown_costs
from common.records.column_rules import obey
from common.records.columns import Column, Lists, Values, constant
from common.records.fields import LARGEST_INTEGER
from common.records.header_column_rules import follow
from common.records.header_rules import HeaderRules
from common.records.number_texts import are_numbers
from common.records.row_columns import ROLES, parts_of
from common.records.rows import SEAL, once
from common.records.schema import KINDS, LONGEST_NAME, Kind, Role, Source

FEW = 8  # lines of a pattern that are not worth it
EXACT = 2.0**53  # integers below are exact as floats
_KEPT = b"0123456789-."
_SPACES = bytes(byte if byte in _KEPT else ord(" ") for byte in range(256))


def alike_parts(block: bytes, rules: HeaderRules, file: int, line: int) -> list[Rows[Any]] | None:
    """Rows of sealed whole lines, as `parts_of`; None unless all are as the writer leaves them and obey every rule."""
    lines = block[:-1].split(NEWLINE)
    bodies, found, rest = [one[:-SEAL] for one in lines], list[Rows[Any]](), list[int]()
    for numbers in _groups(bodies) if b"\\" not in block else [range(len(lines))]:
        few = len(numbers) < FEW or b"\\" in block
        rows = None if few else _rows([bodies[number] for number in numbers], np.array(numbers) + line, file)
        if rows is None or not follow(rows, rules):
            rest += numbers
        else:
            found.append(rows)
    others = _others(lines, sorted(rest), rules, (file, line)) if rest else []
    return None if others is None else found + others


def _groups(bodies: Sequence[bytes]) -> Iterable[Sequence[int]]:
    """Numbers of the lines of each pattern, which is their text without digits and signs."""
    patterns = NEWLINE.join(bodies).translate(None, b"0123456789-").split(NEWLINE)
    if patterns.count(patterns[0]) == len(patterns):
        return [range(len(bodies))]
    groups = defaultdict[bytes, list[int]](list)
    for number, pattern in enumerate(patterns):
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


def _values(bodies: Sequence[bytes], template: "_Template") -> Values:
    """Numbers (m, k) of lines of one pattern. Raises `Unfit` where their texts differ, and for what is no number."""
    text = NEWLINE.join(bodies) + NEWLINE
    for constant_text in template.texts:
        if text.count(constant_text) != len(bodies):
            raise Unfit
        text = text.replace(constant_text, b'""')
    if not are_numbers(text):
        raise Unfit
    tokens, m, width = text.translate(_SPACES).split(), len(bodies), template.width
    if len(tokens) != m * width:
        raise Unfit
    values = np.empty((m, width))
    for place in range(width):
        column = tokens[place::width]
        alike = column.count(column[0]) == m
        values[:, place] = float(column[0]) if alike else [*map(float, column)]
    return values


@dataclass(frozen=True)
class _Numbers:
    """Numbers ``begin`` .. ``begin + width`` of a line, of one type; ``width`` None for one that is no list."""

    begin: int
    width: int | None
    integer: bool

    def of(self, values: Values, kind: type, listed: bool) -> Values:
        """Numbers (m, w) of ``kind``, from those of the lines (m, k). Raises `Unfit` for those of another type."""
        if kind not in (int, float) or (kind is int and not self.integer) or (self.width is not None) != listed:
            raise Unfit
        found = values[:, self.begin : self.begin + (1 if self.width is None else self.width)]
        if self.integer and (abs(found) >= EXACT).any():
            raise Unfit
        return found.astype(np.int64) if kind is int else round_column(found.flatten()).reshape(found.shape)


@dataclass(frozen=True)
class _Template:
    """Constant values of lines, their `_Numbers` and those of their costs, by key; how many numbers there are, and the
    ``texts`` of keys and values in which a digit, a sign or a point stands."""

    constants: Mapping[str, Any]
    numbers: Mapping[str, _Numbers]
    costs: Mapping[str, _Numbers]
    width: int
    texts: Sequence[bytes]


def _template(line: bytes) -> _Template:
    """The template of a line. Raises ``ValueError`` for an unusual one."""
    constants, found, costs, place = dict[str, Any](), dict[str, _Numbers](), dict[str, _Numbers](), 0
    texts = []
    for name, value in json.loads(line + b"}", object_pairs_hook=once).items():
        of_cost = name == "cost" and type(value) is dict
        for key, one in value.items() if of_cost else [(name, value)]:
            numbers = one if type(one) is list else [one]
            types = {*map(type, numbers)}
            if types in ({int}, {float}):
                width = len(one) if type(one) is list else None
                (costs if of_cost else found)[key] = _Numbers(place, width, types == {int})
                place += len(numbers)
            elif of_cost or type(one) not in (str, bool, type(None)):
                raise Unfit
            else:
                constants[key] = one
                written = f"{json.dumps(key)}: {json.dumps(one)}".encode()
                texts += [written] if not {*_KEPT}.isdisjoint(written) else []
    return _Template(constants, found, costs, place, texts)


def _rows(bodies: Sequence[bytes], lines: Values, file: int) -> Rows[Any] | None:
    """Rows of lines of one pattern; None unless they obey every rule of rows."""
    m = len(bodies)
    try:
        template = _template(bodies[0])
        values = _values(bodies, template)
        kind = KINDS[template.constants["kind"]]
        columns, source = _columns(template, values, kind.kind), _source(template, values)
        costs = unknown_costs(m) if not template.costs else _costs(template, values)
        places = np.stack([np.full(m, file), lines], axis=1)
        rows = Rows(kind, source, filled(kind, columns, m), costs, places)
        return rows if obey(rows) else None
    except (ValueError, KeyError, TypeError):  # ``Unfit`` among them
        return None


def _columns(template: _Template, values: Values, kind: Kind) -> dict[str, Column]:
    types, fields = _types(kind), column_fields(KINDS[kind.value])
    columns: dict[str, Column] = {}
    for name, value in template.constants.items():
        if name in fields:
            column = fields[name].read([value])
            if isinstance(column, Lists):
                raise Unfit
            columns[name] = constant(column, len(values))
        elif name not in (*KEY, "kind"):
            raise Unfit
    for name, numbers in template.numbers.items():
        if name == "seed":
            continue
        one, listed, optional = types[name]
        found = numbers.of(values, one, listed)
        if listed:
            lengths = constant(np.array([found.shape[1]]), len(values))
            columns[name] = Lists(found.reshape(-1).astype(smallest_type(found.reshape(-1))), lengths)
        elif optional and one is int and found.min() < 0:
            raise Unfit
        else:
            columns[name] = found[:, 0]
    return columns


def _source(template: _Template, values: Values) -> Source:
    """The evaluation, one of all rows. Raises ``ValueError`` or ``KeyError`` for what is none."""
    name, role = template.constants["evaluator"], template.constants.get("role", Role.RESULT.value)
    seeds = (
        template.numbers["seed"].of(values, int, False) if "seed" in template.numbers else np.zeros((1, 1), np.int64)
    )
    if not isinstance(name, str) or not 0 < len(name) <= LONGEST_NAME or seeds.min() < 0 or (seeds != seeds[0]).any():
        raise Unfit
    return Source(name, int(seeds[0, 0]), ROLES[role])


def _costs(template: _Template, values: Values) -> Values:
    costs: Values = np.full((len(values), len(COSTS)), np.nan)
    for name, numbers in template.costs.items():
        found = numbers.of(values, int if name == "peak_bytes" else float, False)[:, 0]
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
