"""Arguments of public classes and functions, and errors of calls that name the nearest one."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

from common.naming.nearest import did_you_mean
from common.naming.public_names import is_ours

P = ParamSpec("P")
R = TypeVar("R")
_BY_POSITION = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_OPEN = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)  # *args and **kwargs, which hand arguments on


def parameters(target: Any) -> dict[str, inspect.Parameter]:
    """The arguments of a class, those handed on to its bases included, or of a function, by name."""
    return _closed(_handed_on(target))


def name_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """The function, with a ``TypeError`` that names the remedy where it is called with other arguments than its own."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except TypeError as error:
            raise _explained(error, function, function.__name__, args, kwargs) from None

    return call


def name_arguments_of(kind: type) -> None:
    """Give the constructor of a class of this project the errors of `name_arguments`.

    It is replaced once, on the class that defines it; its signature stays.
    """
    owner = next(base for base in inspect.getmro(kind) if "__init__" in vars(base))
    construct = vars(owner)["__init__"]
    if not (is_ours(owner) and inspect.isfunction(construct)) or hasattr(construct, "__wrapped__"):
        return

    @functools.wraps(construct)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            construct(self, *args, **kwargs)
        except TypeError as error:
            raise _explained(error, owner, type(self).__name__, args, kwargs) from None

    owner.__init__ = init  # type: ignore[misc]


def _explained(error: TypeError, target: Any, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> TypeError:
    """The error, or one with the remedy if ``args`` and ``kwargs`` are not those of ``target``."""
    found = _handed_on(target)
    known, handed = _closed(found), {one.kind for one in found.values()}
    places = [one.name for one in known.values() if one.kind in _BY_POSITION]
    given = {*kwargs, *places[: len(args)]}
    needed = [one.name for one in known.values() if one.default is one.empty and one.name not in given]
    unknown = [one for one in kwargs if one not in known]
    if unknown and inspect.Parameter.VAR_KEYWORD not in handed:
        advice = did_you_mean(unknown[0], known)
        return TypeError(f"{name} has no argument {unknown[0]!r}.{advice} help({name}) lists them.")
    if len(args) > len(places) and inspect.Parameter.VAR_POSITIONAL not in handed:
        return TypeError(
            f"{name} takes {len(places)} argument{'s' * (len(places) != 1)} by position{_listed(places)}; "
            f"got {len(args)}. Write others as NAME=VALUE, several values of one as a list."
        )
    return TypeError(f"{name} needs {' and '.join(needed)}. help({name}) describes them.") if needed else error


def _listed(places: Sequence[str]) -> str:
    return f" ({', '.join(places)})" if places else ""


def _closed(found: Mapping[str, inspect.Parameter]) -> dict[str, inspect.Parameter]:
    """The arguments without ``*args`` and ``**kwargs``."""
    return {name: one for name, one in found.items() if one.kind not in _OPEN}


def _handed_on(target: Any) -> dict[str, inspect.Parameter]:
    """The arguments of a class and of its bases, as far as ``*args`` and ``**kwargs`` reach, or of a function."""
    makers = [vars(kind).get("__init__") for kind in inspect.getmro(target)] if inspect.isclass(target) else [target]
    found: dict[str, inspect.Parameter] = {}
    for maker in [maker for maker in makers if inspect.isfunction(maker)]:
        found = _closed(found)
        own = [one for one in inspect.signature(maker).parameters.values() if one.name != "self"]
        found |= {one.name: one for one in own if one.name not in found}
        if not any(one.kind in _OPEN for one in own):
            break
    return found
