"""Each hand-chosen fault makes a test of its room fail: pytest -n 2 -m mutation tests/mutation (about 20 minutes)."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.mutation.mutants import MUTANTS, Mutant
from tests.sources import ROOT

pytestmark = pytest.mark.mutation
PASSED, FAILED = 0, 1  # exit statuses of pytest; any other means that tests could not run
LIMIT = 900  # sec; a mutant may make a loop endless


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project, one for each worker."""
    folder = tmp_path_factory.mktemp("mutated")
    for name in ("agdm", "common", "configs", "diffpure", "ndc", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("cli.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder)
    return folder


def run_tests(tree: Path, files: Iterable[str]) -> tuple[int, str]:
    """Exit status and output of the tests below ``tests/`` of a copy, up to the first failure."""
    command = [sys.executable, "-m", "pytest", "-n", "0", "-x", "-q", "--durations=0", "--no-header"]
    done = subprocess.run(
        [*command, *(f"tests/{file}" for file in files)],
        cwd=tree,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    return done.returncode, done.stdout + done.stderr


def test_the_mutants_are_many_and_each_has_its_place():
    assert len({*MUTANTS}) == len(MUTANTS) >= 60
    assert sum(not mutant.survives for mutant in MUTANTS) >= 57
    misplaced = [str(mutant) for mutant in MUTANTS if (ROOT / mutant.file).read_text().count(mutant.old) != 1]
    assert not misplaced


def test_the_tests_pass_without_a_mutant(tree):
    status, output = run_tests(tree, sorted({file for mutant in MUTANTS for file in mutant.tests}))
    assert status == PASSED, output[-3000:]


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_a_mutant_is_killed(mutant: Mutant, tree: Path) -> None:
    """Its tests fail with it, or pass where ``survives`` says why."""
    path = tree / mutant.file
    text = path.read_text()
    path.write_text(text.replace(mutant.old, mutant.new))
    try:
        status, output = run_tests(tree, mutant.tests)
    finally:
        path.write_text(text)
    assert status == (PASSED if mutant.survives else FAILED), output[-3000:]
