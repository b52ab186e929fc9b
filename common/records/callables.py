"""Functions and classes as parts of a description: those that an import finds have a name, others none."""

import inspect
import sys
from collections.abc import Callable
from types import BuiltinFunctionType, BuiltinMethodType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from common.naming.public_names import public_name

FUNCTIONS = (FunctionType, BuiltinFunctionType, BuiltinMethodType, MethodType, np.ufunc, type)


def name_of(part: Any) -> str:
    """Dotted name of a function or class, also of one without a module."""
    module, name = getattr(part, "__module__", None), getattr(part, "__qualname__", getattr(part, "__name__", "?"))
    if module is None:
        owner = getattr(part, "__self__", None)
        module = owner.__module__ if isinstance(owner, type) else getattr(owner, "__name__", "builtins")
        return f"{module}.{name}"
    return public_name(part) if isinstance(part, FunctionType | type) else f"{module}.{name}"


def owner_of(part: Any) -> Any:
    """The object that a bound method belongs to; None for functions, class methods and functions of a module."""
    owner = getattr(part, "__self__", None)
    return None if isinstance(owner, type | ModuleType) else owner


def why_undetermined(part: Callable[..., Any]) -> str:
    """Reason why a function's name does not tell what it computes; "" if an import finds this very function."""
    name = getattr(part, "__qualname__", "")
    if isinstance(part, np.ufunc) and part.__name__.endswith("(vectorized)"):
        return "a function of numpy.frompyfunc"
    if not isinstance(part, FunctionType):
        return ""
    if found_by_import(part):
        return ""
    if "<lambda>" in name:
        return "a lambda"
    return "a closure" if part.__closure__ else "a function that no import finds"


def found_by_import(part: Any) -> bool:
    """True if the module and name of a function or other object lead to it, or to a decorated form of it."""
    found: Any = sys.modules.get(getattr(part, "__module__", None) or "")
    for attribute in getattr(part, "__qualname__", getattr(part, "__name__", "")).split("."):
        found = getattr(found, attribute, None)
    return callable(found) and (found is part or inspect.unwrap(found, stop=lambda inner: inner is part) is part)
