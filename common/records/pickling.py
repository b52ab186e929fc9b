"""State of objects as pickling and copying take it, with what their own methods of pickling leave out."""

import copyreg
import sys
from collections.abc import Iterable
from types import FunctionType
from typing import Any

from common.naming.public_names import is_ours
from common.records.callables import FUNCTIONS, found_by_import, name_of
from common.records.methods import of_library

_PICKLING = ("__getstate__", "__reduce__", "__reduce_ex__")
_WITHOUT_STATE = {"_thread", "threading"}  # modules of locks


def object_data(part: Any) -> dict[str, Any]:
    """State of an object as pickling and copying take it."""
    if type(part).__module__ in _WITHOUT_STATE:
        return {}
    reduced = part.__reduce_ex__(4)
    if isinstance(reduced, str):
        if isinstance(getattr(part, "__wrapped__", None), FunctionType) and not found_by_import(part):
            raise TypeError(f"no import finds {reduced}")
        return {"name": reduced}
    make, arguments, state, items, pairs = (*reduced, None, None, None)[:5]
    held: dict[str, Any] = {}
    if make is not copyreg.__newobj__:  # type: ignore[attr-defined]
        held["made by"], arguments = name_of(make), (None, *arguments)
    if arguments[1:]:
        held["arguments"] = list(arguments[1:])
    for place, entry in enumerate(state if isinstance(state, tuple) else (state,)):
        held |= entry if _names(entry) else {} if entry is None else {f"state {place}": entry}
    return _unpickled(part) | held | _listed("items", items) | _listed("pairs", pairs)


def _unpickled(part: Any) -> dict[str, Any]:
    """Attributes of an object whose own methods of pickling may leave them out; but locks, files and the like."""
    kind = type(part)
    own = {base for base in kind.__mro__ for name in _PICKLING if name in vars(base)} - {object}
    if not own or any(map(of_library, own)) or is_installed(kind):
        return {}
    state = object.__getstate__(part)  # type: ignore[attr-defined]
    named = [entry for entry in (state if isinstance(state, tuple) else (state,)) if entry]
    return {name: value for entry in named for name, value in entry.items() if _can_be_taken_apart(value)}


def is_installed(cls: type) -> bool:
    """True for a class of an installed package or of this project, which knows what it may leave out."""
    return is_ours(cls) or "site-packages" in (getattr(sys.modules.get(cls.__module__), "__file__", None) or "")


def _can_be_taken_apart(value: Any) -> bool:
    if isinstance(value, FUNCTIONS):
        return True
    try:
        value.__reduce_ex__(4)
    except Exception:  # of a method of the value's own
        return False
    return True


def _names(state: Any) -> bool:
    return isinstance(state, dict) and all(isinstance(name, str) for name in state)


def _listed(name: str, values: Iterable[Any] | None) -> dict[str, Any]:
    return {} if values is None else {name: list(values)}
