"""Table of verdicts, of records with known ones."""

import pytest

from common.report.runs import read_runs
from common.report.tables.verdicts import verdicts_table
from tests.common.report.certificates import TARGETS, three_runs, values, write


@pytest.fixture
def runs(tmp_path):
    return three_runs(tmp_path)


def test_verdicts_agree_where_the_forecast_decided(runs):
    """At 0.25 the forecast has 3 certified, 1 open and guessed not; at 0.5 one certified, one open, two not."""
    table = verdicts_table(runs)
    fast, half, *fixed = table.rows
    assert fast == ["fast / published", "curve", "0.25", 4, 3, 2, 1, 1]  # its third image has radius 0.1 only
    assert half == ["fast / published", "curve", "0.5", 4, 3, 3, 1, 1]
    # 0.4, 0.7 and, of another class, 0.1 without targets of its own: at 0.25 and 0.5
    assert fixed == [["fixed / published", "curve", r, 4, 3, n, 1, k] for r, n, k in (("0.25", 2, 1), ("0.5", 2, 0))]
    assert not verdicts_table(runs[1:]).rows


@pytest.mark.parametrize("other", [{"name": "other"}, {"data": "other"}, {"sigma": 0.5}, {"alpha": 0.05}])
def test_certificates_of_another_meaning_are_not_compared(tmp_path, other):
    """Other evaluations, images, noise levels and error levels; n0 may differ."""
    forecast = values(0.5, 1, 10, procedure=1032)
    paths = [write(tmp_path / "forecast", [forecast], [7.0], targets=TARGETS)]
    runs = read_runs([*paths, write(tmp_path / "run", [values(0.5, 1, 100)], [1000], **other)])
    assert not verdicts_table(runs).rows and not verdicts_table(runs).notes
    alike = read_runs([*paths, write(tmp_path / "alike", [values(0.5, 1, 100)], [1000], n0=7)])
    assert len(verdicts_table(alike).rows) == 2 and len(verdicts_table(alike).notes) == 1


def test_radii_are_those_that_both_decide(tmp_path):
    forecast = values(0.5, 1, 10, procedure=1032)
    paths = [write(tmp_path / "forecast", [forecast], [7.0], targets=[0.25, 0.5, 0.75])]
    for name, targets in (("one", [0.5, 1.0]), ("none", [0.125])):
        paths.append(write(tmp_path / name, [values(0.5, 1, 100)], [1000], targets=targets))
    assert [row[:3] for row in verdicts_table(read_runs(paths)).rows] == [["one / forecast", "curve", "0.5"]]


def test_another_number_of_samples_is_noted(tmp_path):
    forecast = write(tmp_path / "forecast", [values(0.5, 1, 10, procedure=132)], [7.0], targets=TARGETS, n=100)
    paths = [forecast, write(tmp_path / "long", [values(0.5, 1, 100)], [1000], n=100_000)]
    *_, note = verdicts_table(read_runs(paths)).notes
    assert "different numbers of samples n at most: long, curve: 100,000; forecast, curve: 100." in note
