"""A folder of two studies, and the entries of their tables in Markdown."""

import re
from collections.abc import Callable
from pathlib import Path

from common.experiments.study import Combination, Study
from common.experiments.study_list import write_list
from tests.common.report.conftest import Made

SCALES = (10.0, 2.0, 0.0)
SCALE = Study("scale", "Scale, in *this* order.", Path(), [Combination("", (("scale", s),), {}) for s in SCALES])


def write_tree(folder: Path, made: Callable[..., Made]) -> Path:
    """Two studies: one with a list of its runs, one with the title in its configs alone."""
    for number, one in enumerate(SCALE.combinations):
        made(n=30, seed=number, strength=1 + number).clean().attacked("pgd", pictured=2).write(
            folder / "scale" / one.name
        )
    write_list(SCALE, folder / "scale")
    made(n=20).clean().attacked("pgd").attacked("apgd", 2.2).write(folder / "plain" / "b")
    made(n=20, seed=1).clean().attacked("pgd").attacked("apgd", 1.0).write(folder / "plain" / "a")
    (folder / "plain" / "configs").mkdir()
    (folder / "plain" / "configs" / "a.test.yaml").write_text("# Plain runs: two defences.\nmodel: {}\n")
    (folder / "logs").mkdir()
    return folder


def numbers(text: str) -> list[list[str]]:
    """Entries of the first table in Markdown, heads first, without escapes."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[entry.replace("\\", "").strip() for entry in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
