"""Choice of an object by the name that a configuration gives it."""

from collections.abc import Mapping
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
