"""The dependency rule, checked on the syntax tree, room by room: cli -> methods -> common, and no cycle of imports."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.sources import FILES, ROOT, identify, tree_of, violations

METHODS = {"agdm", "diffpure", "ndc"}
ROOMS = {p.name for p in (ROOT / "common").iterdir() if p.is_dir() and not p.name.startswith("_")}
LOOSE = {"noise", "philox", "units", "exact"}
PROJECT = {*METHODS, "common", "cli", "robust_diffusion", "tests"}
IMPORTERS = {"import_module", "__import__", "import_public", "resolve_name"}  # functions that import by a string
BY_NAME = {"importlib", "pkgutil", "pydoc", "runpy", "imp"}  # modules that import by a string
INTERFACE = "robust_diffusion"  # the package that re-exports everything; it lies in common/api

# Allowed imports of each room of common, beside itself. Every other pair is forbidden.
GROUND = {"checks", "files", "naming", "noise", "units"}  # open to every room above them
MAY_IMPORT: dict[str, set[str]] = {
    "api": GROUND | {"data", "engine", "experiments", "processes", "records", "report", "robustness", "tasks"},
    "files": {"naming"},
    "naming": set(),
    "checks": {"naming", "units"},
    "noise": {"checks", "philox"},
    "philox": set(),
    "units": set(),
    "exact": GROUND,
    "numerics": GROUND,
    "processes": {"files"},
    "records": GROUND | {"numerics"},
    "engine": GROUND | {"numerics"},
    "data": GROUND | {"exact"},
    "networks": GROUND,
    "diffusion": GROUND | {"engine", "numerics"},
    "robustness": GROUND | {"numerics", "engine", "records"},
    "checkpoints": GROUND | {"diffusion", "networks", "robustness"},
    "hub": GROUND | {"checkpoints", "diffusion", "robustness"},
    "report": GROUND | {"numerics", "records", "experiments"},
    "tasks": GROUND
    | {
        "checkpoints",
        "data",
        "diffusion",
        "engine",
        "networks",
        "numerics",
        "processes",
        "records",
        "report",
        "robustness",
    },
    "experiments": GROUND | {"diffusion", "engine", "processes", "records", "robustness"},
    "commands": GROUND | {"checkpoints", "experiments", "hub", "processes", "report", "tasks"},
}
"""No permission beyond GROUND is without a use. ``diffusion`` and ``robustness`` never import each other: a purifier is
image -> image to robustness."""

IMPORTS_BY_NAME = {
    # names that configurations, checkpoints and users write
    "common/naming/__init__.py",
    "common/naming/lazy_rooms.py",
    "common/naming/public_names.py",
    "common/checkpoints/description.py",
    "common/experiments/rehearsal.py",
    "common/experiments/suites.py",
    "common/commands",
    "common/api/robust_diffusion/__init__.py",
    # optional packages of others
    "common/api/result.py",
    "common/robustness/attacks/library_model.py",
}
"""Files, and a room, that may import by a string that a test cannot read. In all others an import is a statement."""

TABLES = {"common/naming/short_names.py"}  # names of all rooms, of which it imports none
DOTTED = re.compile(rf"({'|'.join(sorted(PROJECT))})([.:]\w+)+")


@cache
def imported(path: Path) -> frozenset[str]:
    """Dotted names of every project module that a file imports, wherever in the file, by a statement or a string.

    A string that is the name of a module counts wherever it stands, in a variable or a list as well.
    """
    names: set[str] = set()
    tree = tree_of(path)
    if identify(path) not in TABLES:
        names |= named_modules(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write the whole name"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and _name(node.func) in IMPORTERS:
            texts = [*node.args, *(keyword.value for keyword in node.keywords)]
            names |= {text.value for text in texts if isinstance(text, ast.Constant) and isinstance(text.value, str)}
    names = {name.replace(":", ".") for name in names}
    return frozenset(name for name in names if name.split(".")[0] in PROJECT)


def named_modules(tree: ast.AST) -> set[str]:
    """Strings of a file that are dotted names of project modules, docstrings and file names aside."""
    texts = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    strings = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in texts]
    return {text for text in strings if isinstance(text, str) and DOTTED.fullmatch(text) and not text.endswith(".py")}


def imports_by_name(tree: ast.AST) -> set[str]:
    """Means of importing by a computed string in a file: modules, functions, and ``exec`` of code."""
    modules, names = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules.add(str(node.module).split(".")[0])
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Attribute):
            names.add(node.attr)
        elif isinstance(node, ast.Name):
            names.add(node.id)
            modules |= {node.id} & {"exec", "eval"}  # of Python; a network has an `eval` of its own
    return modules & {*BY_NAME, "exec", "eval"} | names & IMPORTERS


def _name(function: ast.expr) -> str:
    """Last part of a function's name: ``import_module`` of ``importlib.import_module``."""
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def module_of(path: Path) -> str:
    """Dotted name of a file's module."""
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    return name.removeprefix("common.api.") if name.startswith(f"common.api.{INTERFACE}") else name


def is_allowed(module: str, name: str) -> bool:
    """The dependency rule for one import of ``name`` by ``module``."""
    (top, *rest), (target, *inner) = module.split("."), name.split(".")
    if top in METHODS:
        return target in (top, "common")
    if top == INTERFACE:
        return target in (*METHODS, "common")
    if target != "common":
        return False
    if not rest:  # common/__init__.py
        return False
    if not inner or inner[0] not in {*ROOMS, *LOOSE}:
        return False  # `from common import x` with x of no room
    if rest[0] == inner[0]:  # inside a room: bodies of networks import no sampler
        return rest[:2] != ["diffusion", "networks"] or inner[1:2] == ["networks"]
    return inner[0] in MAY_IMPORT[rest[0]]


def forbidden_imports(path: Path) -> list[str]:
    return sorted(name for name in imported(path) if not is_allowed(module_of(path), name))


def test_imports_point_downwards():
    assert not violations(forbidden_imports, FILES)


def unlisted_imports_by_name(path: Path) -> list[str]:
    listed = {identify(place) for place in (path, path.parent)} & IMPORTS_BY_NAME
    return [] if listed else sorted(imports_by_name(tree_of(path)))


def test_imports_are_statements():
    """A computed name hides an import from the rule; list its file in IMPORTS_BY_NAME, with the reason."""
    assert not violations(unlisted_imports_by_name, FILES)


def test_every_file_that_may_import_by_name_does():
    for name in IMPORTS_BY_NAME:
        files = [*(ROOT / name).glob("*.py")] or [ROOT / name]
        assert any(imports_by_name(ast.parse(file.read_text())) for file in files), name


@pytest.mark.parametrize(
    "text",
    [
        "from importlib import import_module as f\nf('common.' + 'tasks')",
        "import importlib\nimportlib.import_module(f'common.{room}')",
        "import importlib as i\ngetattr(i, 'import_' + 'module')(name)",
        "from common.naming import import_public\nimport_public(resolve_short_name('RobustTask'))",
        "from common.naming.public_names import import_public as load\nload(name)",
        "from pydoc import locate\nlocate(name)",
        "exec(text)",
        "__import__(name)",
    ],
)
def test_computed_imports_are_seen(text):
    assert imports_by_name(ast.parse(text))


def test_an_evaluation_mode_is_no_import():
    assert not imports_by_name(ast.parse("network.eval()\nimport torch"))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("def f():\n    import agdm.task", "agdm.task"),
        ("def f():\n    from common.diffusion import solvers", "common.diffusion.solvers"),
        (
            "if TYPE_CHECKING:\n    from common.diffusion.purifiers import Purifier",
            "common.diffusion.purifiers.Purifier",
        ),
        ("import common.tasks.robust as task", "common.tasks.robust"),
        ("from common import tasks as t", "common.tasks"),
        ("import common", "common"),
        ("from common import *", "common.*"),
        ("importlib.import_module('common.tasks.robust')", "common.tasks.robust"),
        ("import_module(name='common.tasks.robust')", "common.tasks.robust"),
        ("x = __import__('common.diffusion.purifiers')", "common.diffusion.purifiers"),
        ("import_public('common.diffusion.DiffusionPurifier')", "common.diffusion.DiffusionPurifier"),
        ("pkgutil.resolve_name('common.tasks.robust:RobustTask')", "common.tasks.robust.RobustTask"),
        ("for name in ['common.tasks.robust']:\n    load(name)", "common.tasks.robust"),
        ("ROOM = 'common.tasks'", "common.tasks"),
        ("load(f'common.tasks.robust')", "common.tasks.robust"),
        ("x: 'common.tasks.robust.RobustTask'", "common.tasks.robust.RobustTask"),
        ("sys.modules['common.tasks']", "common.tasks"),
        ("import robust_diffusion", "robust_diffusion"),
        ("from robust_diffusion import evaluate", "robust_diffusion.evaluate"),
        ("from tests.conftest import x", "tests.conftest.x"),
    ],
)
def test_the_rule_sees_every_way_to_import(tmp_path, text, name):
    file = tmp_path / "x.py"
    file.write_text(text)
    assert imported(file) == {name}
    assert not is_allowed("common.robustness.attacks.pgd", name)


def test_the_package_of_all_names_stands_above_the_methods():
    path = ROOT / "common" / "api" / INTERFACE / "__init__.py"
    assert module_of(path) == INTERFACE
    assert "agdm.*" in imported(path)
    assert is_allowed(INTERFACE, "agdm.*")
    assert not is_allowed(INTERFACE, "cli")
    assert not is_allowed("common.api.evaluate", "agdm.AGDM")


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("common.robustness.attacks.pgd", "common.tasks.robust.RobustTask"),
        ("common.diffusion.purifiers", "common.tasks.RobustTask"),
        ("common.diffusion.solvers", "common.robustness.Classifier"),
        ("common.robustness.classifiers", "common.diffusion.purifiers.Purifier"),
        ("common.records.store", "common.robustness.classifiers"),
        ("common.engine.engine", "common.diffusion.denoisers"),
        ("common.diffusion.networks.adm", "common.diffusion.solvers"),
        ("ndc.task", "agdm.task"),
        ("common.tasks.robust", "diffpure"),
        ("diffpure.task", "cli"),
    ],
)
def test_forbidden_pairs(module, name):
    assert not is_allowed(module, name)


def in_cycles(needs: dict[str, set[str]]) -> set[str]:
    """Names that need each other, and those that need them."""
    rest = set(needs)
    while free := {name for name in rest if not needs[name] & rest}:
        rest -= free
    return rest


def test_a_cycle_is_seen():
    assert in_cycles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == {"a", "b", "c"}


def test_the_rooms_have_a_rule_each_and_the_rules_no_cycle():
    assert set(MAY_IMPORT) == ROOMS | LOOSE
    assert not in_cycles(MAY_IMPORT)


def test_every_permission_is_used():
    used: dict[str, set[str]] = {room: set() for room in MAY_IMPORT}
    for path in FILES:
        package, room, *_ = [*module_of(path).split("."), ""]
        if package == "common" and room:
            used[room] |= {name.split(".")[1] for name in imported(path)}
    unused = {room: allowed - used[room] - GROUND for room, allowed in MAY_IMPORT.items()}
    assert not {room: names for room, names in unused.items() if names}


def test_no_import_cycle_between_modules():
    names = {module_of(path): path for path in FILES}
    graph = {}
    for module, path in names.items():
        needed = {name if name in names else name.rpartition(".")[0] for name in imported(path)}
        graph[module] = {name for name in needed if name in names and name != module}
    assert not in_cycles(graph)


def test_nothing_of_common_lies_outside_a_room():
    assert {p.stem for p in (ROOT / "common").glob("*.py")} == LOOSE | {"__init__"}


def test_top_level_names_are_fixed():
    visible = {
        p.name for p in ROOT.iterdir() if not p.name.startswith((".", "__")) and not p.name.endswith(".egg-info")
    }
    fixed = {"pyproject.toml", "agdm", "diffpure", "ndc", "common", "cli.py", "configs", "tests", "README.md"}
    assert fixed <= visible
    assert visible <= fixed | {"CHANGELOG.md", "LICENSE", "CITATION.cff", "CONTRIBUTING.md", "runs", "build", "dist"}
