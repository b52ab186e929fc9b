"""Processor time and memory of reports: on small records beside the libraries, on a million rows, on 400 folders."""

import os
import subprocess
import sys
from pathlib import Path
from statistics import median

import numpy as np
import pytest

from common.records.rows import Header, header_line, sealed
from tests.common.report.pages import CONFIG, attacked, certified, clean, write

pytestmark = pytest.mark.bench

ROOT = Path(__file__).parents[2]
LIBRARIES = ["-c", "import numpy, scipy.stats, matplotlib"]
RATIO = 1.5  # 1.2 measured
MILLION = 1_000_000
ROWS = {
    "clean": '{{"cost": {{"evaluations": 101.0, "seconds": {x}}}, "evaluator": "clean", "index": {i}, "kind": "clean", '
    '"label": {y}, "predictions": [{a}]}}',
    "attacked": '{{"clean_predictions": [{y}], "distance": {x}, "eps": 1.0, "evaluator": "pgd", "index": {i}, '
    '"kind": "attacked", "label": {y}, "norm": "L2", "predictions": [{a}]}}',
    "all fields": '{{"broken": true, "clean_predictions": [{y}, {y}], "cost": {{"evaluations": 4040.0, '
    '"peak_bytes": 1073741824, "seconds": {x}}}, "curve": [1.0, 0.5, {x}, {x}], "dead": {x}, "distance": {x}, '
    '"eps": 1.0, "evaluator": "pgd", '
    '"index": {i}, "kind": "attacked", "knows": "noise", "label": {y}, "norm": "L2", "predictions": [{a}, {y}], '
    '"probabilities": true, "queries": {i}, "random_predictions": [{y}, {a}], "repeatable": false, "resubmissions": 2, '
    '"rule": "majority", "seed": 3, "verified": true, "votes": 5, "zero_gradient": false}}',
    "certified": '{{"count": 90, "evaluator": "smooth", "index": {i}, "kind": "certified", "label": {y}, '
    '"p_lower": 0.78, "prediction": {a}, "radius": {x}, "radius_linf": 0.0, "samples": 100}}',
}
"""Rows of each kind as the evaluators write them, without the optional fields; and of an attack with all of them."""


def measured(arguments: list[str]) -> tuple[float, float]:
    """User and system time of a Python process in seconds, and the peak of its memory in GB."""
    process = subprocess.Popen([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = status
    assert status == 0
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e9


def test_a_report_costs_little_more_than_its_libraries(tmp_path):
    write(tmp_path / "run", clean(), attacked(), certified())
    report = ["cli.py", "report", str(tmp_path / "run"), "--out", str(tmp_path / "out")]
    pairs = [(measured(report)[0], measured(LIBRARIES)[0]) for _ in range(5)]
    assert median(ours / theirs for ours, theirs in pairs) <= RATIO


@pytest.mark.parametrize("kind", ROWS)
def test_a_million_rows_are_reported_in_ten_seconds_and_a_gigabyte(kind, tmp_path):
    """Imports, validation, tables, figures and the page; with another process beside it a core is slower by half."""
    random = np.random.default_rng(0)
    right = random.random(MILLION) < 0.6
    with (tmp_path / "part-00000-1-a.jsonl").open("wb") as file:
        file.write(header_line(Header("f", {**CONFIG, "evaluators": []})))
        for index, x in enumerate(random.random(MILLION).round(6).tolist()):
            label = index % 10
            values = {"i": index, "y": label, "a": label if right[index] else (label + 1) % 10, "x": x}
            file.write(sealed(ROWS[kind].format(**values)))
    seconds, memory = measured(["cli.py", "report", str(tmp_path), "--out", str(tmp_path / "out")])
    print(f"{kind}: {seconds:.1f} s, {memory:.2f} GB")
    assert seconds <= 10 and memory <= 1


def test_400_folders_are_reported_in_thirty_seconds(tmp_path):
    for run in range(400):
        groups = (clean(seed=run), attacked(seed=1000 + run), attacked("apgd", seed=2000 + run), certified(seed=run))
        write(tmp_path / f"run-{run}", *groups)
    seconds, memory = measured(["cli.py", "report", str(tmp_path), "--out", str(tmp_path / "out")])
    print(f"{seconds:.1f} s, {memory:.2f} GB")
    assert seconds <= 30 and memory <= 1
