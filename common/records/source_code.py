"""Checksum of the code that computes, for results that no row vouches for."""

import hashlib
import marshal
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import CodeType, FunctionType, ModuleType

import torch

from common.naming.public_names import PACKAGES

_INSTALLED = ("site-packages", "dist-packages")


def code_checksum() -> str:
    """Checksum of PyTorch's version, of this project's code, and of the modules of users that are imported.

    Of modules without a file, such as notebooks, the compiled functions count.
    """
    digest = hashlib.sha256(f"{sys.version} {torch.__version__} {_own()}".encode())
    for name, module in sorted(_of_users()):
        digest.update(f"{name} {_content(module)}".encode())
    return digest.hexdigest()[:16]


@cache
def _own() -> str:
    """Checksum of this project's files, once per process, which runs what it has imported."""
    digest = hashlib.sha256()
    for package in PACKAGES:
        for folder in getattr(sys.modules.get(package), "__path__", []):
            for file in sorted(Path(folder).rglob("*.py")):
                digest.update(file.relative_to(folder).as_posix().encode() + _read(file))
    return digest.hexdigest()


def _of_users() -> Iterator[tuple[str, ModuleType]]:
    """Imported modules that are neither Python's nor installed nor this project's."""
    standard = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib"))
    for name, module in [*sys.modules.items()]:
        package = name.split(".")[0]
        if (
            not isinstance(module, ModuleType)
            or package in PACKAGES
            or package in sys.stdlib_module_names - {"__main__"}
        ):
            continue
        file = getattr(module, "__file__", None)
        if name == "__main__" or (file and not file.startswith(standard) and not any(n in file for n in _INSTALLED)):
            yield name, module


def _content(module: ModuleType) -> str:
    if file := getattr(module, "__file__", None):
        return hashlib.sha256(_read(Path(file))).hexdigest()
    digest = hashlib.sha256()
    for name, value in sorted(vars(module).items()):
        if getattr(value, "__module__", None) == module.__name__:
            for code in _codes(value):
                digest.update(name.encode() + marshal.dumps(code))
    return digest.hexdigest()


def _codes(value: object) -> Iterator[CodeType]:
    """Compiled functions of a function or a class."""
    if isinstance(value, FunctionType):
        yield value.__code__
    elif isinstance(value, type):
        for _, inner in sorted(vars(value).items()):
            yield from _codes(inner)


def _read(file: Path) -> bytes:
    with suppress(OSError):
        return file.read_bytes()
    return b""
