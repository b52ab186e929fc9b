"""Exports of a room that are imported on first use, so that naming the room does not import torch."""

import ast
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def lazy_exports(room: str) -> Callable[[str], Any]:
    """The module function ``__getattr__`` of a room, whose ``__init__.py`` imports its exports under TYPE_CHECKING.

    The imports there are the table of exports: type checkers follow them, and a name is imported when it is used.
    """
    modules: dict[str, str] = {}

    def load(name: str) -> Any:
        if not modules:
            modules.update(exported(Path(str(sys.modules[room].__file__))))
        if name not in modules:
            raise AttributeError(f"module {room!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(modules[name]), name)
        setattr(sys.modules[room], name, value)
        return value

    return load


def exported(file: Path) -> dict[str, str]:
    """The module of every name that a file imports under ``if TYPE_CHECKING:``."""
    blocks = [node for node in ast.parse(file.read_text(encoding="utf-8")).body if isinstance(node, ast.If)]
    imports = [line for block in blocks for line in block.body if isinstance(line, ast.ImportFrom)]
    return {alias.name: str(line.module) for line in imports for alias in line.names}
