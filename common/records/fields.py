"""Validation of a record's fields by their declared types, and conversion from JSON."""

import math
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass, replace
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

from common.records.rounding import rounded

LARGEST_INTEGER = 2**63 - 1  # what a column of 64 bits holds
Check = Callable[[Any], Any]  # the value as it is stored; TypeError or ValueError for one of another type


def check_fields(record: Any) -> None:
    """Validate every field of a frozen dataclass by its declared type, and round its floats, in place.

    Declared types are ``str``, ``int``, ``bool``, finite ``float``, literals, enums, dataclasses, ``X | None``, and
    lists and dictionaries of these. An enum's value and a dataclass's dictionary, as JSON has them, are converted.
    Raises ``ValueError`` with the field's name.
    """
    cls: Any = type(record)
    for name, check in _checks(cls):
        value = getattr(record, name)
        try:
            stored = check(value)
        except (TypeError, ValueError) as error:
            kind = type_name(get_type_hints(type(record))[name]).replace("float", "finite float")
            got = f"{value!r} ({type(value).__name__})"
            raise ValueError(f"a record's {name} must be {kind}; got {got}. Write plain Python values.") from error
        if stored is not value:
            object.__setattr__(record, name, stored)


def type_name(kind: Any) -> str:
    """Declared type as written in the code: ``"list[int]"``, ``"float or None"``."""
    if isinstance(kind, UnionType) or get_origin(kind) is Union:
        return " or ".join(type_name(part) for part in get_args(kind))
    if kind is NoneType:
        return "None"
    if get_origin(kind) is Literal:
        return " or ".join(map(repr, get_args(kind)))
    inside = ", ".join(type_name(part) for part in get_args(kind))
    return f"{kind.__name__}[{inside}]" if inside else str(kind.__name__)


@cache
def _checks(cls: Any) -> tuple[tuple[str, Check], ...]:
    hints = get_type_hints(cls)
    return tuple((name, _check(kind)) for name, kind in hints.items() if get_origin(kind) is not ClassVar)


def _check(kind: Any) -> Check:
    arguments = get_args(kind)
    if NoneType in arguments:
        (inner,) = (_check(part) for part in arguments if part is not NoneType)
        return lambda value: None if value is None else inner(value)
    if get_origin(kind) is Literal:
        return lambda value: _one_of(arguments, value)
    if get_origin(kind) is list:
        return _list_check(arguments[0])
    if get_origin(kind) is dict:
        inner = _check(arguments[1])
        return lambda value: {_plain(str, key): inner(entry) for key, entry in _plain(dict, value).items()}
    if kind is float:
        return _finite
    if is_dataclass(kind):
        return lambda value: _nested(kind, value)
    if issubclass(kind, Enum):
        return lambda value: value if type(value) is kind else kind(value)
    return lambda value: _plain(kind, value)


def _plain(kind: type, value: Any) -> Any:
    if type(value) is not kind or (kind is int and not _moderate([value])):
        raise TypeError
    if isinstance(value, str) and not value.isascii():
        value.encode()  # half of a surrogate pair is no text
    return value


def _one_of(choices: tuple[Any, ...], value: Any) -> Any:
    if value not in choices:
        raise ValueError
    return value


def _finite(value: Any) -> float:
    if type(value) is int and not _moderate([value]):  # no float, perhaps
        raise TypeError
    if (type(value) is not float and type(value) is not int) or not math.isfinite(value):
        raise TypeError
    return rounded(value)


def _list_check(kind: Any) -> Check:
    inner = _check(kind)
    plain = {kind} if kind in (bool, int, str) else None

    def check(value: Any) -> list[Any]:
        if type(value) is not list and type(value) is not tuple:
            raise TypeError
        if plain is None:
            return [inner(entry) for entry in value]
        if not plain.issuperset(map(type, value)) or (kind is int and not _moderate(value)):
            raise TypeError
        return value if type(value) is list else list(value)

    return check


def _moderate(values: Any) -> bool:
    return not values or -LARGEST_INTEGER <= min(values) <= max(values) <= LARGEST_INTEGER


def _nested(kind: Any, value: Any) -> Any:
    part = kind(**value) if isinstance(value, Mapping) else _plain(kind, value)
    stored = {name: check(getattr(part, name)) for name, check in _checks(kind)}
    return replace(part, **stored)
