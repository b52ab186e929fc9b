"""Sizes, docstrings, names, one home for each frame conversion, no global randomness, an assertion in every test."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from statistics import median

import pytest

from tests.sources import CODE, TESTS, identify, nodes_of, text_of, tree_of, violations

MEDIAN, LINES, BODY_LINES = 130, 250, 450  # of files; bodies of networks are long lists of layers
TEST_LINES = 450
FUNCTION_LINES, BODY_FUNCTION_LINES = 45, 70
PARAMETERS = 6

MORE_PARAMETERS: dict[str, int] = {
    # a purifier: its networks, then the process that papers state (t_star, steps, solver, differentiation, schedule)
    "agdm/purifier.py::AGDM.__init__": 10,
    # the Python interface: one call of independent keywords
    "common/api/evaluate.py::certify": 13,
    "common/api/evaluate.py::evaluate": 14,
    "common/api/predict.py::predict": 9,
    "common/diffusion/purifiers.py::DiffusionPurifier.__init__": 7,
    "diffpure/langevin.py::LangevinDiffPure.__init__": 7,
    "diffpure/likelihood_maximisation.py::LikelihoodMaximisation.__init__": 8,
    "diffpure/purifier.py::DiffPure.__init__": 7,
    "diffpure/randomised.py::RandomisedDiffPure.__init__": 8,
    # a training task: its networks, the objective's values, recipe and export; the recipe is a dataclass already
    "agdm/task.py::GuidanceTask.__init__": 10,
    "common/tasks/classifier.py::ClassifierTask.__init__": 8,
    "common/tasks/fast_classifier.py::FastClassifierTask.__init__": 9,
    # a data set: its files, image size, subset and loading, which the command line overrides one by one
    "common/data/celebahq.py::CelebAHQ.__init__": 7,
    "common/data/image_data.py::ImageData.__init__": 8,
    # conventions of published networks, of which each format sets its own few
    "common/diffusion/denoisers.py::EpsDenoiser.__init__": 8,
    # NDC's classifier: noise level, variant, nodes, weight and sampling, the rows of the paper's tables
    "ndc/bounded.py::BoundedDiffusionClassifier.__init__": 7,
    "common/tasks/robust.py::RobustTask.__init__": 7,
    "ndc/classifier.py::NoisedDiffusionClassifier.__init__": 11,
    "ndc/denoised.py::DenoisedClassifier.__init__": 8,
}
"""Constructors above the limit. Their arguments are the YAML keys of an experiment, and settings in its fingerprint: a
dataclass around some of them would nest the keys of every configuration and change the fingerprint of every run."""


def lines_of(path: Path) -> int:
    return len(text_of(path).splitlines())


def is_body(path: Path) -> bool:
    """True for bodies of networks."""
    return "networks" in Path(identify(path)).parts


@cache
def parameters_of(path: Path) -> dict[str, int]:
    """Number of parameters of every function of a file, ``self`` aside, by ``Class.function``."""
    counts = {}
    nodes = nodes_of(path)
    owners = {id(child): f"{node.name}." for node in nodes if isinstance(node, ast.ClassDef) for child in node.body}
    for node in nodes:
        if isinstance(node, ast.FunctionDef):
            names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            counts[owners.get(id(node), "") + node.name] = len([name for name in names if name not in ("self", "cls")])
    return counts


def too_long(path: Path) -> Iterator[str]:
    if lines_of(path) > (BODY_LINES if is_body(path) else LINES):
        yield f"{lines_of(path)} lines"
    for node in nodes_of(path):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno is not None
            documented = node.body[0].end_lineno - node.body[0].lineno + 1 if ast.get_docstring(node) else 0
            length = node.end_lineno - node.lineno - documented
            if length > (BODY_FUNCTION_LINES if is_body(path) else FUNCTION_LINES):
                yield f"{node.name} has {length} lines"


def test_files_and_functions_stay_small():
    assert not violations(too_long, CODE)


def test_test_files_have_one_subject():
    """Split a longer one by subject; what both parts use goes to a module beside them."""
    assert not [identify(path) for path in TESTS if lines_of(path) > TEST_LINES]


def test_most_files_are_short():
    assert median(lines_of(path) for path in CODE if path.name != "__init__.py") <= MEDIAN
    assert max(map(lines_of, CODE)) <= BODY_LINES


def many_parameters(path: Path) -> Iterator[str]:
    for name, count in parameters_of(path).items():
        if count > MORE_PARAMETERS.get(f"{identify(path)}::{name}", PARAMETERS):
            yield f"{name} has {count} parameters"


def test_functions_have_few_parameters():
    """Bodies of networks take the publishers' options; constructors that YAML names are listed above."""
    assert not violations(many_parameters, [path for path in CODE if not is_body(path)])


def test_exceptions_are_constructors_and_needed():
    counts = {f"{identify(path)}::{name}": count for path in CODE for name, count in parameters_of(path).items()}
    for name, limit in MORE_PARAMETERS.items():
        assert name.endswith("__init__") or name.startswith("common/api/"), name
        assert PARAMETERS < counts[name] <= limit, name


def undocumented(path: Path) -> Iterator[str]:
    """Modules and public definitions without a docstring."""
    tree = tree_of(path)
    if path.name != "__init__.py" and not ast.get_docstring(tree):
        yield "the module"
    for node in tree.body:
        public = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
        if public and not ast.get_docstring(node):
            yield node.name


def test_public_definitions_have_docstrings():
    assert not violations(undocumented, CODE)


FORBIDDEN = {
    # for torchattacks alone global generators are seeded, inside a context that restores them
    r"manual_seed\(|seed_everything\(|np\.random\.seed": "global_state.py",
    r"\b2\.? ?\* ?(image|adv|x0?|images)\b ?- ?1": "units.py",  # elsewhere common.units.to_model
    r"\.backward\(": "",  # attacks use torch.autograd.grad; Lightning calls backward
}
"""Patterns of code, and the one file that each of them is allowed in."""


def forbidden(path: Path) -> Iterator[str]:
    for pattern, home in FORBIDDEN.items():
        if path.name != home and (match := re.search(pattern, text_of(path))):
            yield match[0]


def test_no_global_randomness_and_no_stray_frame_conversion():
    assert not violations(forbidden, CODE)


def test_names():
    assert not [identify(path) for path in CODE if path.stem in {"utils", "helpers", "misc", "base", "core"}]


@pytest.mark.parametrize(
    ("rule", "text", "seen"),
    [
        (too_long, "def f():\n" + "    x = 1\n" * 46, ["f has 46 lines"]),
        (many_parameters, "class A:\n    def f(self, a, b, c, d, *, e, f, g): ...", ["A.f has 7 parameters"]),
        (undocumented, "class A:\n    pass\ndef _f(): ...", ["the module", "A"]),
        (forbidden, "torch.manual_seed(0)\ny = 2 * image - 1\nloss.backward()",
         ["manual_seed(", "2 * image - 1", ".backward("]),
    ],
)  # fmt: skip
def test_a_violation_is_seen(rule, text, seen, tmp_path):
    file = tmp_path / "x.py"
    file.write_text(text)
    assert violations(rule, [file]) == [f"{file}: {one}" for one in seen]


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


def without_assertion(path: Path) -> Iterator[str]:
    for node in nodes_of(path):
        checks = isinstance(node, ast.FunctionDef) and node.name.startswith(("test_", *CHECKS))
        if checks and not has_an_assertion(node):
            yield node.name


def test_every_test_asserts_something():
    """Its own assertion or a named check's; a named check defined in the same file must contain one."""
    assert not violations(without_assertion, [path for path in TESTS if path.name.startswith("test_")])


@pytest.mark.parametrize(
    ("body", "asserts"),
    [("load(path)", False), ("load(path)\n    assert path", True), ("with pytest.raises(ValueError): load()", True),
     ("check_state(load(path))", True), ("recheck(load(path))", False)],
)  # fmt: skip
def test_an_assertion_is_recognised(body, asserts):
    (function,) = ast.parse(f"def test():\n    {body}\n").body
    assert has_an_assertion(function) == asserts
