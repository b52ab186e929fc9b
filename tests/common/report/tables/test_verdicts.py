"""Table of verdicts, of records with known ones."""

import pytest
from scipy.stats import beta

from common.report.runs import read_runs
from common.report.tables.table import Cell
from common.report.tables.verdicts import verdicts_table
from tests.common.report.certificates import TARGETS, three_runs, values, write


@pytest.fixture
def runs(tmp_path):
    return three_runs(tmp_path)


def equal_of(number, n):
    """Equal ones of n verdicts and their exact 95 % interval in percent: quantiles of beta distributions."""
    low = beta.ppf(0.025, number, n - number + 1) if number else 0.0
    high = beta.ppf(0.975, number + 1, n - number) if number < n else 1.0
    return Cell(f"{number} of {n}", f"[{100 * low:.1f}, {100 * high:.1f}]")


def test_verdicts_agree_where_the_forecast_decided(runs):
    """At 0.25 the forecast has 3 certified, 1 open and guessed not; at 0.5 one certified, one open, two not."""
    table = verdicts_table(runs)
    fast, half, *fixed = table.rows
    assert table.columns[3:] == [
        "Images",
        "Decided",
        "Equal",
        "Certified",
        "Not certified",
        "Open",
        "Equal to the guess",
    ]
    # its third image has radius 0.1 only
    assert fast == ["fast / published", "curve", "0.25", 4, 3, 2, equal_of(2, 3), None, 1, 1]
    assert half == ["fast / published", "curve", "0.5", 4, 3, 3, equal_of(1, 1), equal_of(2, 2), 1, 1]
    # 0.4, 0.7 and, of another class, 0.1 without targets of its own: at 0.25 and 0.5
    expected = [4, 3, 2, equal_of(2, 3), None, 1, 1], [4, 3, 2, equal_of(0, 1), equal_of(2, 2), 1, 0]
    assert fixed == [["fixed / published", "curve", r, *row] for r, row in zip(("0.25", "0.5"), expected, strict=True)]
    assert not verdicts_table(runs[1:]).rows


def test_certified_and_other_verdicts_are_counted_apart(tmp_path):
    """Of 10 certified verdicts 9 are equal, of 30 others 29, though one is certified as another class."""
    forecast = {"samples": 10, "procedure": 1032}
    predicted = [values(0.25, 1, **forecast)] * 10 + [values(0.0, -1, **forecast)] * 30
    found = [values(0.3, 1, 100)] * 9 + [values(0.0, -1, 100)] * 29 + [values(0.3, 2, 100), values(0.3, 1, 100)]
    paths = [write(tmp_path / "forecast", predicted, [7.0] * 40, targets=[0.25])]
    paths.append(write(tmp_path / "run", found, [1000] * 40, targets=[0.25]))
    (row,) = verdicts_table(read_runs(paths)).rows
    assert row[3:] == [40, 40, 38, Cell("9 of 10", "[55.5, 99.7]"), Cell("29 of 30", "[82.8, 99.9]"), 0, 0]


def test_runs_without_common_images_have_no_row(tmp_path):
    forecast = write(tmp_path / "forecast", [values(0.5, 1, 10, procedure=1032)], [7.0], targets=TARGETS, n=100)
    runs = read_runs([forecast, write(tmp_path / "elsewhere", [values(0.5, 1, 100)], [1000], start=1)])
    assert not verdicts_table(runs).rows and not verdicts_table(runs).notes


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
