"""Values that methods of a class hold beside their code: of closures, of defaults, functions put in their place."""

import inspect
import sys
from collections.abc import Iterator
from functools import cached_property
from types import FunctionType
from typing import Any

from common.naming.public_names import is_ours
from common.records.callables import found_by_import, name_of, why_undetermined
from common.records.globals_read import globals_of

LIBRARIES = {*sys.stdlib_module_names, "torch", "lightning", "lightning_fabric", "pytorch_lightning", "numpy"}
_CONSTRUCTORS = {"__init__", "__new__", "__post_init__"}  # what they made is described


def of_library(part: Any) -> bool:
    """True for a class or function of Python, PyTorch, Lightning or NumPy."""
    return (getattr(part, "__module__", None) or "builtins").split(".")[0] in LIBRARIES


def methods_of(cls: type) -> dict[str, Any]:
    """Methods by class and name, overridden ones too, whose numbers the name of their class does not tell.

    Those are methods of a class that a function makes, if they are closures or have defaults, with these values;
    methods that read global variables (`globals_of`); and functions from elsewhere that were set as attributes of a
    class. Decorators are code, as methods are.
    """
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if of_library(base):
            continue
        for name, value in vars(base).items():
            functions = [(inner, one) for inner, one in _functions(value) if not _is_generated(one)]
            held = {inner: one for inner, function in functions if (one := _held(function, name, base, cls))}
            if held:
                found[f"{base.__qualname__}.{name}"] = held[""] if [*held] == [""] else held
    return found


def is_method(function: Any, cls: type) -> bool:
    """True for a function that the body of a class, or of one of its bases, defines."""
    name = getattr(inspect.unwrap(function), "__qualname__", "")
    return any(name.startswith(f"{base.__qualname__}.") for base in cls.__mro__)


def _functions(value: Any) -> Iterator[tuple[str, FunctionType]]:
    if isinstance(value, property):
        named = {"get": value.fget, "set": value.fset}
    elif isinstance(value, cached_property):
        named = {"": value.func}
    else:
        named = {"": value.__func__ if isinstance(value, staticmethod | classmethod) else value}
    yield from ((name, one) for name, one in named.items() if isinstance(one, FunctionType))


def _is_generated(function: FunctionType) -> bool:
    """True for the methods that dataclasses and named tuples have."""
    return bool(inspect.unwrap(function).__code__.co_filename == "<string>")


def _held(function: FunctionType, name: str, base: type, cls: type) -> Any:
    """Addition of a function, an attribute of a class, to the description of instances; None for code alone."""
    if is_method(function, cls):
        made = "<locals>" in base.__qualname__ and not is_ours(base)
        held = _values(inspect.unwrap(function), cls) if made else {}
        return held | ({} if name in _CONSTRUCTORS else globals_of(function)) or None
    if name.startswith("__") and of_library(function):
        return None
    held = globals_of(function) | (_values(function, cls) if function.__closure__ else {})
    if not held:  # code, which the first recorded image checks
        return {"function": name_of(function)} if found_by_import(function) else None
    return function if "<lambda>" in function.__qualname__ else {"function": name_of(function), **held}


def _values(function: Any, cls: type) -> dict[str, Any]:
    """Values of the free variables and of the defaults of a function by name; methods of its class by their name."""
    variables = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    found: dict[str, Any] = dict(function.__kwdefaults__ or {})
    if function.__defaults__:
        count = function.__code__.co_argcount
        names = function.__code__.co_varnames[count - len(function.__defaults__) : count]
        found |= dict(zip(names, function.__defaults__, strict=True))
    for name, cell in variables.items():
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    found.pop("__class__", None)
    own = {name: name_of(one) for name, one in found.items() if isinstance(one, FunctionType) and is_method(one, cls)}
    return {name: value for name, value in (found | own).items() if value is not cls}


def method_reason(method: Any) -> str:
    """Reason why a bound method cannot be determined; "" for one of its object's own class."""
    function = getattr(method, "__func__", None)
    if not isinstance(function, FunctionType) or is_method(function, type(method.__self__)):
        return ""
    return why_undetermined(function)
