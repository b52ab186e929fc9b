"""Public names of classes and functions: the room that exports them, and their own name.

Checkpoints, the headers of records and configurations name a class by its room (``common.robustness.PGD``), so moving
it between the modules of the room changes no file. A room is a package whose ``__all__`` lists what it exports.
A loose file of ``common`` with an ``__all__`` is a room of its own (``common.exact.GaussianMixture``).
"""

import importlib
import re
import sys
from collections.abc import Callable
from typing import Any

PACKAGES = ("agdm", "common", "diffpure", "ndc")
"""Top-level packages of this project."""

_NAME = re.compile(rf"({'|'.join(PACKAGES)})(\.[A-Za-z]\w*)+")


def is_ours(part: type | Callable[..., Any] | str) -> bool:
    """True for a class or function that this project defines, and for the dotted name of one."""
    name = part if isinstance(part, str) else part.__module__
    return name.split(".")[0] in PACKAGES


def public_name(part: type | Callable[..., Any]) -> str:
    """``room.Name`` of a class or function, e.g. ``common.robustness.PGD``.

    The room is the outermost package on the way to the defining module that exports the same object under the same
    name; the defining module takes its place where none does.
    """
    parts, name = part.__module__.split("."), part.__qualname__
    for depth in range(1, len(parts)):
        room = ".".join(parts[:depth])
        if _exports(sys.modules.get(room), name, part):
            return f"{room}.{name}"
    return f"{part.__module__}.{name}"


def import_public(name: str) -> Any:
    """The class or function of this project with the public name ``name``: the inverse of `public_name`.

    Raises ``ValueError`` for a name outside the project, one that no room exports, and any other than the public name.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"a public name must start with a package of {', '.join(PACKAGES)}; got {name!r}.")
    room, _, attribute = name.rpartition(".")
    try:
        part = getattr(importlib.import_module(room), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"this version of the project has no {name}; another version wrote that name.") from error
    if not hasattr(part, "__qualname__") or not _exports(sys.modules[room], attribute, part):
        raise ValueError(f"{name} must be a class or function that the room {room} exports; it is not.")
    if (public := public_name(part)) != name:
        raise ValueError(f"the public name of {name} is {public}. Use that one.")
    return part


def _exports(package: Any, name: str, part: object) -> bool:
    """True if the package (None for one not imported) exports ``part`` under ``name``.

    Packages of other projects that list no exports export all their attributes.
    """
    listed = getattr(package, "__all__", () if is_ours(getattr(package, "__name__", "")) else (name,))
    return name in listed and getattr(package, name, None) is part
