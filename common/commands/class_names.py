"""Short class names on the command line and in YAML: ``DiffPure`` for ``diffpure.DiffPure``, at any depth."""

import re
from pkgutil import resolve_name
from typing import Any

from jsonargparse import _typehints

from common.naming.public_names import is_ours, public_name
from common.naming.short_names import SHORT_NAMES

_SHORT = {public: short for short, public in SHORT_NAMES.items()}
_CLASS_PATH = re.compile(r"(\bclass_path\"?: \"?)([\w.]+)")
_by_subclass = _typehints.resolve_class_path_by_name


def accept_short_names() -> None:
    """Let jsonargparse look up names without a dot in the table of short names, before loaded subclasses.

    jsonargparse has no public hook for it: it finds loaded subclasses by their names, but no function
    (``load_denoiser``) and no class of a room that is not imported yet.
    """
    _typehints.resolve_class_path_by_name = _class_path  # type: ignore[assignment]


def _class_path(kind: Any, name: str) -> str:
    return SHORT_NAMES.get(name) or _by_subclass(kind, name)


def with_short_names(text: str) -> str:
    """A configuration's text with short names at every ``class_path``: public names where there is no short one.

    Any other path stays: a module path of a class that no room exports, and the name of a method.
    """
    return _CLASS_PATH.sub(lambda found: found[1] + short_path(found[2]), text)


def short_path(path: str) -> str:
    """The short name of a class or function of this project, by whichever path it was named."""
    try:
        target: Any = resolve_name(path) if is_ours(path) else None
    except (ImportError, AttributeError, ValueError):
        return path
    public = public_name(target) if "." not in getattr(target, "__qualname__", ".") else path
    return _SHORT.get(public, public)
