"""Rooms stay liveable: file sizes, names, one home for each frame conversion, no stray global randomness."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEST_FILES = sorted((ROOT / "tests").rglob("test_*.py"))
FILES = sorted(path for name in ("agdm", "common", "diffpure", "ndc") for path in (ROOT / name).rglob("*.py"))
LINES, BODY_LINES, FUNCTION_LINES = 300, 500, 70  # about 250, 450, 40, with room to breathe


def identify(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", FILES, ids=identify)
def test_files_and_functions_stay_small(path):
    text = path.read_text()
    assert len(text.splitlines()) <= (BODY_LINES if "networks" in path.parts else LINES)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno <= FUNCTION_LINES, f"{node.name} is long"


@pytest.mark.parametrize("path", FILES, ids=identify)
def test_public_definitions_have_docstrings(path):
    tree = ast.parse(path.read_text())
    if path.name != "__init__.py":
        assert ast.get_docstring(tree), "a module says what it is for"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"


@pytest.mark.parametrize("path", FILES, ids=identify)
def test_no_global_randomness_and_no_stray_frame_conversion(path):
    text = path.read_text()
    # the torchattacks adapter alone seeds global generators, inside a context that restores them
    for pattern in (
        () if path.name == "library_model.py" else (r"manual_seed\(", r"seed_everything\(", r"np\.random\.seed")
    ):
        assert not re.search(pattern, text), pattern
    if path.name != "units.py":
        assert not re.search(r"\b2\.? ?\* ?(image|adv|x0?|images)\b ?- ?1", text), "use common.units.to_model"
    assert not re.search(r"\.backward\(", text), "attacks use torch.autograd.grad; Lightning calls backward"


@pytest.mark.parametrize("path", FILES, ids=identify)
def test_names(path):
    assert path.stem not in {"utils", "helpers", "misc", "base", "core"}


CHECKS = ("check_", "assert_", "expect_")  # names of helpers that contain the assertion
OUTSIDE = {"raises", "warns", "fail", "gradcheck", "gradgradcheck"}  # checks of pytest and torch.autograd


def called(node: ast.AST) -> str:
    """Bare name of what a call calls, empty for every other node."""
    if not isinstance(node, ast.Call):
        return ""
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def has_an_assertion(function: ast.AST) -> bool:
    """An ``assert``, an expected exception, or a call of a named check, anywhere inside."""
    names = [called(node) for node in ast.walk(function)]
    if any(isinstance(node, ast.Assert) for node in ast.walk(function)):
        return True
    return any(name in OUTSIDE or name.startswith(CHECKS) for name in names)


@pytest.mark.parametrize("path", TEST_FILES, ids=identify)
def test_every_test_asserts_something(path):
    """Its own assertion or a named check's; a named check defined in the same file must contain one."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef) and node.name.startswith(("test_", *CHECKS)):
            assert has_an_assertion(node), f"{node.name} asserts nothing"


@pytest.mark.parametrize(
    ("body", "asserts"),
    [("load(path)", False), ("load(path)\n    assert path", True), ("with pytest.raises(ValueError): load()", True),
     ("check_state(load(path))", True), ("recheck(load(path))", False)],
)  # fmt: skip
def test_an_assertion_is_recognised(body, asserts):
    (function,) = ast.parse(f"def test():\n    {body}\n").body
    assert has_an_assertion(function) == asserts
