"""Choice of an object by the name that a configuration gives it."""

from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def choose(argument: str, choices: Mapping[Any, T], name: str, alternative: str = "") -> T:
    """``choices[name]``. Raises ``ValueError`` for another name, with all names and the ``alternative`` to them.

    ``argument``: the name of the caller's argument, for the message.
    """
    if name not in choices:
        raise ValueError(f"{argument} must be one of {', '.join(choices)}{alternative}; got {name!r}")
    return choices[name]
