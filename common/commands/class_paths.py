"""Restrict a ``class_path`` in an argument to subclasses of the declared type and functions that return one.

jsonargparse builds a ``class_path`` in a value without a declared class (``Any``, the values of a ``dict``) and calls
any function named for a callable argument. Here dictionaries are data, and nothing named in them is imported.
"""

import inspect
from collections.abc import Callable
from typing import Any, get_origin, get_type_hints

import jsonargparse
from jsonargparse import _typehints as _jsonargparse

_typehints: Any = _jsonargparse  # private and untyped
_build = _typehints.adapt_class_type


def restrict_class_paths() -> None:
    """Let jsonargparse build only what an argument's type declares. It has no public setting for all of it."""
    _typehints.adapt_classes_any = _data
    _typehints.adapt_class_type = _declared
    if "import_path_denylist" in inspect.signature(jsonargparse.set_parsing_settings).parameters:
        jsonargparse.set_parsing_settings(import_path_denylist=[])  # enforce its list: os, subprocess, pickle, ...


def _data(value: Any, *_: Any, **__: Any) -> Any:
    """A value without a declared class, as it is. Raises ``ValueError`` for a class in it."""
    if _typehints.is_subclass_spec(value):
        raise ValueError(
            f"{value['class_path']!r} stands where plain data are expected: a class_path is built only for an "
            "argument that declares a class. Give plain values, or annotate your own argument (network: nn.Module)."
        )
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    for item in inside:
        _data(item)
    return value


def _declared(value: Any, *args: Any, typehint: Any = None, **kwargs: Any) -> Any:
    """A class or function for an argument. Raises ``ImportError`` for a function that does not return a callable.

    Without ``typehint`` the argument is a callable: what is built for it must be one.
    """
    target = _typehints.import_object(value["class_path"]) if typehint is None else None
    if target is not None and not inspect.isclass(target) and not _returns_callable(target):
        raise ImportError(
            f"{value['class_path']} must be a function annotated to return a Callable. Write in its file: "
            "def NAME(...) -> Callable:"
        )
    return _build(value, *args, **({} if typehint is None else {"typehint": typehint}), **kwargs)


def _returns_callable(function: Any) -> bool:
    try:
        returned = get_type_hints(function).get("return")
    except (TypeError, NameError):
        return False
    if get_origin(returned) is Callable or returned is Callable:
        return True
    return inspect.isclass(returned) and any("__call__" in vars(kind) for kind in returned.__mro__)
