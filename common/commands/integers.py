"""Integers in scientific notation: ``n: 1e3`` for an argument that takes an integer."""

import re
from contextvars import ContextVar
from typing import Any, get_args

from jsonargparse import _typehints as _jsonargparse

_typehints: Any = _jsonargparse  # private and untyped
_adapt = _typehints.adapt_typehints
_SCIENTIFIC = re.compile(r"[+-]?\d+(\.\d*)?[eE]\+?\d+")
_LARGEST = 2**53  # of the integers that a float holds exactly
_in_numbers: ContextVar[bool] = ContextVar("in a type that also takes floats", default=False)


def accept_scientific_integers() -> None:
    """Let jsonargparse take ``1e3`` for ``int``, unless the type also takes ``float``: 1.0 may be a share there."""
    _typehints.adapt_typehints = _with_integers


def _with_integers(value: Any, typehint: Any, *args: Any, **kwargs: Any) -> Any:
    kinds = get_args(typehint) if type(None) in get_args(typehint) or float in get_args(typehint) else (typehint,)
    token = _in_numbers.set(True) if float in kinds else None
    try:
        if int in kinds and not _in_numbers.get():
            value = _integer(value)
        return _adapt(value, typehint, *args, **kwargs)
    finally:
        if token is not None:
            _in_numbers.reset(token)


def _integer(value: Any) -> Any:
    """The integer that a number in scientific notation stands for; any other value as it is."""
    number = float(value) if isinstance(value, str) and _SCIENTIFIC.fullmatch(value.strip()) else value
    if isinstance(number, float) and abs(number) <= _LARGEST and number == int(number):
        return int(number)
    return value
