"""Lines of rows that are columns: the bytes of `record_line` without cost, written column by column."""

import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import cache, partial
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from common.records.column_fields import column_fields
from common.records.column_rows import Rows
from common.records.columns import Column, Lists, Values, is_constant
from common.records.schema import KINDS, Kind, Role
from common.records.table import Table

CHUNK = 4096  # rows that are made at a time
Texts = Callable[[Any], list[str]]


def lines(table: Table) -> Iterator[bytes]:
    """Lines of all rows in their order, some thousand at a time, without their costs."""
    for rows in table.parts:
        for start in range(0, len(rows), CHUNK):
            yield _lines(rows[start : start + CHUNK])


def _lines(rows: Rows[Any]) -> bytes:
    """Each row as ``{"name": value, …, "crc": "…"}``; a value that is the field's default is left out."""
    source, written = rows.source, _writers(rows.kind.kind)
    fixed = {"evaluator": source.evaluator, "kind": rows.kind.kind, "seed": source.seed, "role": source.role}
    fixed = {name: value for name, value in fixed.items() if (name, value) not in (("seed", 0), ("role", Role.RESULT))}
    columns: list[Sequence[str] | str] = []
    for name in sorted({*fixed, *written}):
        if name in fixed:
            columns.append(_entry(name, json.dumps(fixed[name])))
        elif (column := written[name](rows.columns[name])) is not None:
            columns.append(column)
    texts = [["{"] * len(rows), *([one] * len(rows) if isinstance(one, str) else one for one in columns)]
    found, crc32 = [], zlib.crc32
    for text in map("".join, zip(*texts, strict=True)):
        body = text[:-2].encode()  # without the last comma
        found.append(b'%b, "crc": "%08x"}\n' % (body, crc32(b"}", crc32(body))))
    return b"".join(found)


@cache
def _writers(kind: Kind) -> dict[str, Callable[[Column], list[str] | None]]:
    """Function by field: the entries of a column, "" where it has its default; None if all of them do."""
    hints = get_type_hints(KINDS[kind.value])
    made: dict[str, Callable[[Column], list[str] | None]] = {}
    for name, field in column_fields(KINDS[kind.value]).items():
        texts = _texts(hints[name])
        default = None if field.blank is None else texts(field.blank)[0]
        made[name] = partial(_entries, name, texts, default)
    return made


def _entries(name: str, texts: Texts, default: str | None, column: Column) -> list[str] | None:
    if not isinstance(column, Lists) and is_constant(column):
        (text,) = texts(column[:1])
        return None if text == default else [_entry(name, text)] * len(column)
    values = texts(column)
    known = {*values} if default in values else set()
    if known == {default}:
        return None
    return ["" if known and text == default else _entry(name, text) for text in values]


def _entry(name: str, text: str) -> str:
    return f'"{name}": {text}, '


def _texts(kind: Any) -> Texts:
    """Function from a column of a declared type to the values as JSON."""
    optional = NoneType in get_args(kind)
    inner = next(part for part in get_args(kind) if part is not NoneType) if optional else kind
    if get_origin(inner) is list and get_args(inner)[0] in (int, float):
        return _of_lists
    if inner is str or get_origin(inner) is Literal:
        return _of_strings
    if inner is bool:
        return lambda column: [_FLAGS[value] for value in column.tolist()]
    if inner in (int, float):
        unknown = (-1 if inner is int else "nan") if optional else None
        return partial(_of_numbers, None if unknown is None else str(unknown))
    return lambda column: [json.dumps(value, sort_keys=True, allow_nan=False, default=asdict) for value in column]


_FLAGS = {True: "true", False: "false", -1: "null"}


def _of_numbers(unknown: str | None, column: Values) -> list[str]:
    texts = [*map(repr, column.tolist())]
    return texts if unknown not in texts else ["null" if text == unknown else text for text in texts]


def _of_strings(column: Values) -> list[str]:
    values = column.tolist()
    known = {value: json.dumps(value) for value in {*values}}
    return [known[value] for value in values]


def _of_lists(column: Lists) -> list[str]:
    if column.width is not None:
        return [*map(str, column.matrix.tolist())]
    flat, ends = column.flat.tolist(), (column.starts + column.counts).tolist()
    rows = zip(column.starts.tolist(), ends, column.lengths.tolist(), strict=True)
    return ["null" if length < 0 else str(flat[start:end]) for start, end, length in rows]
