"""Values of a module's global variables that the functions of a user's part read."""

import dis
import inspect
import sys
from collections.abc import Iterator
from functools import partial
from types import CodeType, FunctionType
from typing import Any

import numpy as np
import torch
from torch import nn

from common.naming.public_names import is_ours

_PLAIN = (bool, int, float, complex, str, bytes, type(None), np.generic)
_PARTS = (torch.Tensor, np.ndarray, nn.Module, partial)
_WRITES = {"append", "add", "update", "extend", "insert", "pop", "popitem", "remove", "clear", "setdefault"}


def globals_of(function: Any, seen: set[CodeType] | None = None) -> dict[str, Any]:
    """Global values by name that a function, and functions of users' modules that it calls, read.

    Numbers, texts, tensors, networks, and containers of these. Names that the function assigns, and containers that
    it may write into, are state such as counters and are left out. Functions of installed packages read none.
    """
    function = inspect.unwrap(function)
    seen = set() if seen is None else seen
    if not isinstance(function, FunctionType) or function.__code__ in seen or _is_installed(function):
        return {}
    seen.add(function.__code__)
    found: dict[str, Any] = {}
    for code in _codes(function.__code__):
        for name in _read(code):
            value = function.__globals__.get(name, function)  # a builtin is no global
            if isinstance(value, FunctionType):
                found |= globals_of(value, seen)
            elif isinstance(value, _PARTS) or _is_plain(value, writes=_writes(code)):
                found[name] = value
    return found


def _is_installed(function: FunctionType) -> bool:
    """True for a function of Python, of an installed package or of this project."""
    module = (function.__module__ or "").split(".")[0]
    return module in sys.stdlib_module_names or is_ours(module) or "site-packages" in function.__code__.co_filename


def _codes(code: CodeType) -> Iterator[CodeType]:
    """Code of a function and of those defined inside."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _read(code: CodeType) -> list[str]:
    """Names of globals that code reads and does not assign."""
    names: dict[str, set[str]] = {"LOAD_GLOBAL": set(), "STORE_GLOBAL": set()}
    for one in dis.get_instructions(code):
        if one.opname in names:
            names[one.opname].add(one.argval)
    return sorted(names["LOAD_GLOBAL"] - names["STORE_GLOBAL"])


def _writes(code: CodeType) -> bool:
    """True if code may write into a container."""
    subscript = any(one.opname in ("STORE_SUBSCR", "DELETE_SUBSCR") for one in dis.get_instructions(code))
    return subscript or bool(_WRITES & set(code.co_names))


def _is_plain(value: Any, writes: bool = False) -> bool:
    if isinstance(value, tuple | frozenset):
        return all(isinstance(one, _PARTS) or _is_plain(one, writes) for one in value)
    if isinstance(value, list | set):
        return not writes and all(isinstance(one, _PARTS) or _is_plain(one) for one in value)
    if isinstance(value, dict):
        return not writes and all(isinstance(one, _PARTS) or _is_plain(one) for one in [*value, *value.values()])
    return isinstance(value, _PLAIN)
