"""Sizes, docstrings, names, one home for each frame conversion, no global randomness, an assertion in every test."""

import ast
import re
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).parent.parent
TEST_FILES = sorted((ROOT / "tests").rglob("test_*.py"))
FILES = [
    ROOT / "cli.py",
    *sorted(path for name in ("agdm", "common", "diffpure", "ndc") for path in (ROOT / name).rglob("*.py")),
]
MEDIAN, LINES, BODY_LINES = 130, 250, 450  # of files; bodies of networks are long lists of layers
TEST_LINES = 450
FUNCTION_LINES, BODY_FUNCTION_LINES = 45, 70
PARAMETERS = 6

MORE_PARAMETERS: dict[str, int] = {
    # a purifier: its networks, then the process that papers state (t_star, steps, solver, differentiation, schedule)
    "agdm/purifier.py::AGDM.__init__": 10,
    # the Python interface: one call of independent keywords
    "common/api/evaluate.py::certify": 12,
    "common/api/evaluate.py::evaluate": 13,
    "common/api/predict.py::predict": 9,
    "common/diffusion/purifiers.py::DiffusionPurifier.__init__": 7,
    "diffpure/langevin.py::LangevinDiffPure.__init__": 7,
    "diffpure/purifier.py::DiffPure.__init__": 7,
    "diffpure/randomised.py::RandomisedDiffPure.__init__": 8,
    # a training task: its networks, the objective's values, recipe and export; the recipe is a dataclass already
    "agdm/task.py::GuidanceTask.__init__": 10,
    "common/tasks/classifier.py::ClassifierTask.__init__": 8,
    # a data set: its files, image size, subset and loading, which the command line overrides one by one
    "common/data/celebahq.py::CelebAHQ.__init__": 7,
    "common/data/image_data.py::ImageData.__init__": 8,
    # conventions of published networks, of which each format sets its own few
    "common/diffusion/denoisers.py::EpsDenoiser.__init__": 8,
    # NDC's classifier: noise level, variant, nodes, weight and sampling, the rows of the paper's tables
    "ndc/bounded.py::BoundedDiffusionClassifier.__init__": 7,
    "ndc/classifier.py::NoisedDiffusionClassifier.__init__": 10,
    "ndc/denoised.py::DenoisedClassifier.__init__": 8,
}
"""Constructors above the limit. Their arguments are the YAML keys of an experiment, and settings in its fingerprint: a
dataclass around some of them would nest the keys of every configuration and change the fingerprint of every run."""


def identify(path: Path) -> str:
    return str(path.relative_to(ROOT))


def lines_of(path: Path) -> int:
    return len(path.read_text().splitlines())


def is_body(path: Path) -> bool:
    """True for bodies of networks."""
    return "networks" in path.relative_to(ROOT).parts


def parameters_of(path: Path) -> dict[str, int]:
    """Number of parameters of every function of a file, ``self`` aside, by ``Class.function``."""
    counts = {}
    tree = ast.parse(path.read_text())
    owners = {
        id(child): f"{node.name}." for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for child in node.body
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            counts[owners.get(id(node), "") + node.name] = len([name for name in names if name not in ("self", "cls")])
    return counts


@pytest.mark.parametrize("path", FILES, ids=identify)
def test_files_and_functions_stay_small(path):
    assert lines_of(path) <= (BODY_LINES if is_body(path) else LINES)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno is not None
            documented = node.body[0].end_lineno - node.body[0].lineno + 1 if ast.get_docstring(node) else 0
            length = node.end_lineno - node.lineno - documented
            assert length <= (BODY_FUNCTION_LINES if is_body(path) else FUNCTION_LINES), f"{node.name} is long"


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("*.py")), ids=identify)
def test_test_files_have_one_subject(path):
    assert lines_of(path) <= TEST_LINES, "split it by subject; what both parts use goes to a module beside them"


def test_most_files_are_short():
    assert median(lines_of(path) for path in FILES if path.name != "__init__.py") <= MEDIAN
    assert max(map(lines_of, FILES)) <= BODY_LINES


@pytest.mark.parametrize("path", [path for path in FILES if not is_body(path)], ids=identify)
def test_functions_have_few_parameters(path):
    """Bodies of networks take the publishers' options; constructors that YAML names are listed above."""
    for name, count in parameters_of(path).items():
        assert count <= MORE_PARAMETERS.get(f"{identify(path)}::{name}", PARAMETERS), f"{name} has {count} parameters"


def test_exceptions_are_constructors_and_needed():
    counts = {f"{identify(path)}::{name}": count for path in FILES for name, count in parameters_of(path).items()}
    for name, limit in MORE_PARAMETERS.items():
        assert name.endswith("__init__") or name.startswith("common/api/"), name
        assert PARAMETERS < counts[name] <= limit, name


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
    # for torchattacks alone global generators are seeded, inside a context that restores them
    for pattern in (
        () if path.name == "global_state.py" else (r"manual_seed\(", r"seed_everything\(", r"np\.random\.seed")
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
