"""Public names of classes and functions: the outermost package that exports them."""

import sys
from collections.abc import Callable
from typing import Any


def public_name(part: type | Callable[..., Any]) -> str:
    """``room.Name`` of a class or function: `common.robustness.PGD`, not the module that happens to hold it.

    The outermost package on the way to its module that exports the same object under the same name; the module itself
    where none does. Written to checkpoints, records' headers and configurations, so that moving a class between
    modules changes no file.
    """
    parts, name = part.__module__.split("."), part.__qualname__
    for depth in range(1, len(parts)):
        room = ".".join(parts[:depth])
        if getattr(sys.modules.get(room), name, None) is part:
            return f"{room}.{name}"
    return f"{part.__module__}.{name}"
