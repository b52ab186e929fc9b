"""Source files of the project for the tests of its rules; each file is read and parsed once in a process."""

import ast
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
FILES = sorted(path for name in ("agdm", "common", "diffpure", "ndc") for path in (ROOT / name).rglob("*.py"))
CODE = [ROOT / "cli.py", *FILES]
TESTS = sorted((ROOT / "tests").rglob("*.py"))
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))


@cache
def text_of(path: Path) -> str:
    return path.read_text()


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(text_of(path))


@cache
def nodes_of(path: Path) -> tuple[ast.AST, ...]:
    """All nodes of a file's syntax tree."""
    return tuple(ast.walk(tree_of(path)))


def identify(path: Path) -> str:
    """Path from the root of the repository, as ids and messages name a file."""
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def violations(rule: Callable[[Path], Iterable[str]], paths: Iterable[Path]) -> list[str]:
    """``file: violation`` for every violation of a rule in any of the files."""
    return [f"{identify(path)}: {violation}" for path in paths for violation in rule(path)]
