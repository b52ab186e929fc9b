"""Processor time of a report on small records, against the import of the libraries it stands on."""

import resource
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest

from tests.common.report.pages import attacked, certified, clean, write

pytestmark = pytest.mark.bench

ROOT = Path(__file__).parents[2]
LIBRARIES = ["-c", "import numpy, scipy.stats, matplotlib"]
RATIO = 1.5  # 1.2 measured


def processor_time(arguments: list[str]) -> float:
    """User and system time of a Python process, in seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def test_a_report_costs_little_more_than_its_libraries(tmp_path):
    write(tmp_path / "run", clean(), attacked(), certified())
    report = ["cli.py", "report", str(tmp_path / "run"), "--out", str(tmp_path / "out")]
    pairs = [(processor_time(report), processor_time(LIBRARIES)) for _ in range(5)]
    assert median(ours / theirs for ours, theirs in pairs) <= RATIO
