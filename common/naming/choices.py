"""Choice of an object by the name that a configuration gives it."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from common.naming.nearest import did_you_mean

T = TypeVar("T")


def choose(argument: str, choices: Mapping[Any, T], name: str, alternative: str = "") -> T:
    """``choices[name]``. Raises ``ValueError`` for another name, with all names and the ``alternative`` to them.

    ``argument``: the name of the caller's argument, for the message.
    """
    if name not in choices:
        advice = did_you_mean(name, choices)
        raise ValueError(f"{argument} must be one of {', '.join(choices)}{alternative}; got {name!r}.{advice}")
    return choices[name]


def make(argument: str, makers: Mapping[Any, Callable[[], T]], given: str | T, alternative: str) -> T:
    """An object made by ``makers[given]`` for a name, else ``given`` itself. Errors as in ``choose``."""
    return choose(argument, makers, given, alternative)() if isinstance(given, str) else given
