"""The template of lines that differ in numbers alone: their constant values, and the place of each number."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np

from common.records.column_fields import Unfit, round_column
from common.records.columns import Values, constant, is_constant
from common.records.number_texts import Runs
from common.records.rows import once

EXACT = 2.0**53  # integers below are exact as floats
_STRING = re.compile(rb'"[^"]*"')
_NUMBER = re.compile(rb"-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?")


@dataclass(frozen=True)
class Number:
    """A number of the first line: its ``value``, the first of its runs, and what else is in its text."""

    value: int | float
    run: int
    decimal: bool
    exponent: bool
    constant: bool

    def column(self, runs: Runs) -> Values:
        """Numbers (m,) of all lines, float64. Raises `Unfit` for those that are left to the validation of each row."""
        if not self.constant and not self.exponent:
            return runs.numbers(self.run, self.decimal)
        if not self.constant or not abs(self.value) < (EXACT if type(self.value) is int else inf):
            raise Unfit
        return constant(np.array([self.value], np.float64), len(runs.starts))


@dataclass(frozen=True)
class Numbers:
    """The numbers of one key; ``listed`` where they are a list."""

    runs: Runs
    members: Sequence[Number]
    listed: bool

    def of(self, kind: type, listed: bool = False) -> Values:
        """Numbers of ``kind``: (m, w) of a list, else (m,). Raises `Unfit` for those of another type."""
        integer = type(self.members[0].value) is int
        if kind not in (int, float) or (kind is int and not integer) or self.listed != listed:
            raise Unfit
        columns = [number.column(self.runs) for number in self.members]
        if not listed and is_constant(columns[0]):
            return constant(_typed(columns[0][:1].copy(), kind), len(self.runs.starts))
        found = _typed(np.stack(columns, axis=1).reshape(-1), kind)
        return found.reshape(-1, len(columns)) if listed else found


def _typed(found: Values, kind: type) -> Values:
    return found.astype(np.int64) if kind is int else round_column(found)


@dataclass(frozen=True)
class Template:
    """Constant values of lines, their `Numbers`, and those of their costs, by key."""

    constants: Mapping[str, Any]
    numbers: Mapping[str, Numbers]
    costs: Mapping[str, Numbers]


def template_of(runs: Runs) -> Template:
    """The template of lines without escapes. Raises ``ValueError`` for an unusual one."""
    line = json.loads(runs.line, object_pairs_hook=once)
    del line["crc"]
    entries = [(name, key, one) for name, value in line.items() for key, one in _entries(name, value)]
    numbers = iter(_numbers(runs, [value for *_, one in entries for value in _values(one) if _is_number(value)]))
    constants, found, costs = dict[str, Any](), dict[str, Numbers](), dict[str, Numbers]()
    for name, key, one in entries:
        if {*map(type, _values(one))} in ({int}, {float}):
            members = [next(numbers) for _ in _values(one)]
            (found if key is None else costs)[key or name] = Numbers(runs, members, type(one) is list)
        elif key is not None or type(one) not in (str, bool, type(None)):
            raise Unfit
        else:
            constants[name] = one
    return Template(constants, found, costs)


def _entries(name: str, value: Any) -> Iterable[tuple[str | None, Any]]:
    """The costs of a row by their key; the value of another key without one."""
    return value.items() if name == "cost" and type(value) is dict else [(None, value)]


def _values(one: Any) -> Sequence[Any]:
    return one if type(one) is list else [one]


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _numbers(runs: Runs, values: Sequence[int | float]) -> list[Number]:
    """Numbers of the first line. Raises `Unfit` unless they are all that differs in the lines."""
    text = _STRING.sub(lambda found: b" " * len(found[0]), runs.line)
    found = [*_NUMBER.finditer(text)]
    if len(found) != len(values):
        raise Unfit
    first = np.searchsorted(runs.starts[0], [number.start() for number in found])
    stop = np.searchsorted(runs.starts[0], [number.end() for number in found])
    differing = np.concatenate([[0], np.cumsum(~runs.constant)])
    counts = differing[stop] - differing[first]
    if counts.sum() != differing[-1]:
        raise Unfit
    return [
        Number(value, run, text[1] is not None, text[2] is not None, count == 0)
        for value, run, text, count in zip(values, first.tolist(), found, counts.tolist(), strict=True)
    ]
