"""The dependency rule, checked on the syntax tree: cli -> methods -> common, and inside common no shortcuts."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
METHODS = {"agdm", "diffpure", "ndc"}
FILES = sorted(path for name in (*METHODS, "common") for path in (ROOT / name).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Dotted names of every project module that a file imports, wherever in the file it does so."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write the whole name"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.split(".")[0] in {*METHODS, "common", "cli"}}


def forbidden(module: str) -> set[str]:
    """Prefixes that ``module`` must not import."""
    top = module.split(".")[0]
    if top in METHODS:
        return (METHODS - {top}) | {"cli"}
    rules = {
        "common.diffusion": {"common.robustness", "common.data", "common.tasks", "common.report"},
        "common.robustness": {"common.diffusion", "common.data", "common.tasks", "common.report"},
        "common.data": {"common.diffusion", "common.robustness", "common.tasks", "common.report", "common.networks"},
        "common.networks": {
            "common.diffusion",
            "common.robustness",
            "common.data",
            "common.tasks",
            "common.checkpoints",
        },
        "common.diffusion.networks": {"common.diffusion.solvers", "common.diffusion.purifiers", "common.checkpoints"},
        "common.checkpoints": {"common.tasks", "common.data", "common.report"},
        "common.noise": {"common"},
        "common.units": {"common"},
        "common.exact": {"common.diffusion", "common.robustness", "common.data", "common.tasks"},
    }
    mine = [rules[key] for key in rules if module == key or module.startswith(f"{key}.")]
    return METHODS | {"cli"} | set().union(*mine)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downwards(path):
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    bad = {n for n in imported(path) for f in forbidden(module) if n == f or n.startswith(f"{f}.")}
    bad = {n for n in bad if not (n == module or n.startswith(f"{module}."))}
    assert not bad, f"{module} imports {sorted(bad)}"


def test_the_rule_sees_every_way_to_import(tmp_path):
    file = tmp_path / "x.py"
    file.write_text("def f():\n    import agdm.task\n    from common.diffusion import solvers\n")
    assert imported(file) == {"agdm.task", "common.diffusion.solvers"}


def test_methods_do_not_know_each_other():
    assert forbidden("ndc.task") == {"agdm", "diffpure", "cli"}
    assert "common.robustness" in forbidden("common.diffusion.solvers")


def test_top_level_names_are_fixed():
    visible = {
        p.name for p in ROOT.iterdir() if not p.name.startswith((".", "__")) and not p.name.endswith(".egg-info")
    }
    fixed = {"pyproject.toml", "agdm", "diffpure", "ndc", "common", "cli.py", "configs", "tests", "README.md"}
    assert fixed <= visible
    assert visible <= fixed | {"CHANGELOG.md", "LICENSE", "CITATION.cff", "runs", "build", "dist"}
