"""Fields of records as columns: a reader by declared type, which accepts what `check_fields` accepts as it stands.

An unknown value (None) is -1 in a column of integers or flags, whose known values are at least 0, and NaN among floats.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import cache, partial
from itertools import chain
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np

from common.records.columns import Column, Lists, Values, constant
from common.records.fields import LARGEST_INTEGER
from common.records.rounding import DIGITS, rounded
from common.records.schema import KINDS, Cost, Kind, Record

KEY = ("evaluator", "seed", "role")  # of an evaluation: one value for all of its rows
COSTS = tuple(field.name for field in fields(Cost))
_TENS = 10.0 ** np.arange(23)  # exact

Raw = Sequence[Any]


class Unfit(ValueError):
    """Values that the fast reader leaves to the validation of each row."""


@dataclass(frozen=True)
class Field:
    """Name of a record's field, reader of its values into a column, item of a column as the record has it.

    ``blank``: column of one row at its default; None of a field without one.
    """

    name: str
    read: Callable[[Raw], Column]
    item: Callable[[Any, int], Any]
    blank: Column | None


def column_fields(kind: type[Record]) -> Mapping[str, Field]:
    """Fields of a kind by name, without those of the evaluation and the cost."""
    return _fields(kind.kind)


@cache
def _fields(kind: Kind) -> Mapping[str, Field]:
    record = KINDS[kind.value]
    hints = get_type_hints(record)
    return {
        field.name: _field(field, hints[field.name]) for field in fields(record) if field.name not in (*KEY, "cost")
    }


def _field(field: Any, kind: Any) -> Field:
    default = field.default if field.default_factory is MISSING else field.default_factory()
    optional = NoneType in get_args(kind)
    inner = next(part for part in get_args(kind) if part is not NoneType) if optional else kind
    read, item = _codec(inner, optional)
    return Field(field.name, read, item, None if default is MISSING else read([default]))


def _codec(kind: Any, optional: bool) -> tuple[Callable[[Raw], Column], Callable[[Any, int], Any]]:
    if get_origin(kind) is Literal:
        return partial(_choices, get_args(kind)), _plain
    if get_origin(kind) is list and get_args(kind)[0] in (int, float):
        return partial(_lists, get_args(kind)[0], optional), lambda column, row: column.item(row)
    if kind is str:
        return partial(_texts, optional), _plain
    if kind in (int, float, bool):
        read = {int: integers, float: floats, bool: _flags}[kind]
        return (partial(_optional, read), partial(_known, kind)) if optional else (read, partial(_converted, kind))
    return _texts_by_name if get_origin(kind) is dict else _objects, lambda column, row: column[row].copy()


def _plain(column: Values, row: int) -> Any:
    return column[row]


def _converted(kind: type, column: Values, row: int) -> Any:
    return kind(column[row])


def _known(kind: type, column: Values, row: int) -> Any:
    return None if is_unknown(column[row : row + 1])[0] else kind(column[row])


def is_unknown(column: Values) -> Values:
    """Mask of the values that are None in the records, of a column of an optional field."""
    return np.isnan(column) if column.dtype.kind == "f" else column < 0


def integers(values: Raw) -> Values:
    """Column of integers."""
    if set(map(type, values)) - {int}:
        raise Unfit
    try:
        return np.array(values, np.int64)
    except OverflowError as error:
        raise Unfit from error


def floats(values: Raw) -> Values:
    """Column of finite numbers, rounded as records store them."""
    types = set(map(type, values))
    if types - {int, float}:
        raise Unfit
    try:
        column = np.array(values, np.float64)
    except OverflowError as error:
        raise Unfit from error
    if not np.isfinite(column).all() or (int in types and abs(column).max() >= LARGEST_INTEGER):
        raise Unfit
    return round_column(column)


def round_column(column: Values) -> Values:
    """Numbers of six digits; a column that has them already is recognised at once.

    An integer m <= 10^6 over 10^k, k <= 22, is the number nearest to that decimal fraction: both are exact.
    """
    size = abs(column)
    if ((np.rint(size * 10**DIGITS) / 10**DIGITS == size) & (size <= 1)).all():
        return column
    places = (DIGITS - 1 - np.floor(np.log10(np.where(size > 0, size, 1.0)))).astype(np.int64)
    up, down = _TENS[places.clip(0, 22)], _TENS[(-places).clip(0, 22)]
    whole = np.rint(size * up / down)
    loose = np.flatnonzero((whole / up * down != size) | (whole > 10**DIGITS) | (abs(places) > 22))
    if len(loose):
        column[loose] = [rounded(value) for value in column[loose].tolist()]
    return column


def _flags(values: Raw) -> Values:
    if set(map(type, values)) - {bool}:
        raise Unfit
    return np.array(values, np.bool_)


def _optional(read: Callable[[Raw], Values], values: Raw) -> Values:
    known = np.array([value is not None for value in values])
    inner = read(values if known.all() else [value for value in values if value is not None])
    inner = inner.astype(np.int8) if inner.dtype == np.bool_ else inner
    if inner.dtype.kind == "i" and len(inner) and inner.min() < 0:
        raise Unfit
    if len(inner) == len(values):
        return inner
    column = np.full(len(values), np.nan if inner.dtype.kind == "f" else -1, inner.dtype)
    column[known] = inner
    return column


def _texts(optional: bool, values: Raw) -> Values:
    if set(map(type, values)) - ({str, NoneType} if optional else {str}):
        raise Unfit
    distinct = set(values)
    _check_text(value for value in distinct if value is not None)
    return _shared(values, {value: value for value in distinct})


def _check_text(values: Iterable[str]) -> None:
    """Raise `Unfit` for half of a surrogate pair, which is no text."""
    try:
        for value in values:
            value.isascii() or value.encode()
    except UnicodeEncodeError as error:
        raise Unfit from error


def _choices(choices: Raw, values: Raw) -> Values:
    if set(map(type, values)) - {str} or set(values) - set(choices):
        raise Unfit
    return _shared(values, {value: value for value in choices if value in values})


def _shared(values: Raw, shared: Mapping[Any, Any]) -> Values:
    """Object column of few distinct values, each held once."""
    if len(shared) == 1:
        return constant(_objects(list(shared)), len(values))
    column = np.empty(len(values), object)
    column[:] = [shared[value] for value in values]
    return column


def _texts_by_name(values: Raw) -> Values:
    if set(map(type, values)) - {dict}:
        raise Unfit
    for texts in filter(None, values):
        if set(map(type, texts.values())) - {str}:
            raise Unfit
        _check_text([*texts, *texts.values()])
    return _objects(values)


def _objects(values: Raw) -> Values:
    column = np.empty(len(values), object)
    for place, value in enumerate(values):  # at once, equally long lists would become a matrix
        column[place] = value
    return column


def _lists(kind: type, optional: bool, values: Raw) -> Lists:
    types = set(map(type, values))
    if types - ({list, NoneType} if optional else {list}):
        raise Unfit
    parts = [part for part in values if part is not None] if NoneType in types else values
    lengths = np.array(list(map(len, values)) if parts is values else [-1 if p is None else len(p) for p in values])
    flat = (_classes if kind is int else floats)(list(chain.from_iterable(parts)))
    if len(lengths) > 1 and (lengths == lengths[0]).all():
        lengths = constant(lengths, len(lengths))
    return Lists(flat.astype(smallest_type(flat)), lengths)


def _classes(values: Raw) -> Values:
    """Column of integers, most of which are small."""
    if set(map(type, values)) - {int}:
        raise Unfit
    try:
        return np.frombuffer(bytes(values), np.uint8).astype(np.int16)
    except ValueError:  # beyond 0 .. 255
        return integers(values)


def smallest_type(flat: Values) -> Any:
    """Type of the fewest bytes that holds these values."""
    if flat.dtype.kind != "i" or not len(flat):
        return flat.dtype
    low, high = flat.min(), flat.max()
    types = (np.iinfo(kind) for kind in (np.int16, np.int32, np.int64))
    return next(known.dtype for known in types if known.min <= low and high <= known.max)
