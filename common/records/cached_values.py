"""Attributes of a part, with values that were set over a ``functools.cached_property``."""

from collections.abc import Callable
from functools import cached_property
from typing import Any

from common.naming.public_names import is_ours
from common.records.attributes import attributes_of


def held_by(part: Any, describer: Callable[[], Any], cheap: bool = False) -> list[tuple[str, Any]]:
    """`attributes_of` a part, and the cached values that its class does not compute.

    A value in the place of a cached property follows from the other attributes, unless it was set from outside. It is
    computed anew, and counts if a new ``describer`` tells the two apart or if it cannot be computed. If ``cheap``,
    every such value counts, for comparison with the same part later.
    """
    found = attributes_of(part)
    names = [] if is_ours(type(part)) else [name for name in _cached(type(part)) if name in _own(part)]
    return [*found, *((name, _own(part)[name]) for name in names if cheap or _is_set(part, name, describer))]


def _own(part: Any) -> dict[str, Any]:
    return getattr(part, "__dict__", {})


def _cached(cls: type) -> dict[str, cached_property[Any]]:
    """Cached properties of a class by name; the nearest base counts."""
    held = {name: value for base in reversed(cls.__mro__) for name, value in vars(base).items()}
    return {name: value for name, value in held.items() if isinstance(value, cached_property)}


def _is_set(part: Any, name: str, describer: Callable[[], Any]) -> bool:
    try:
        computed = _cached(type(part))[name].func(part)
    except Exception:  # of the property's own
        return True
    return bool(describer().describe(computed) != describer().describe(_own(part)[name]))
