"""Table of the cost of certification, of records with known numbers."""

import pytest

from common.records.store import Records
from common.report.runs import read_runs
from common.report.tables.certification_cost import certification_cost_table
from common.report.tables.table import Cell
from tests.common.records.made import certified_record
from tests.common.report.certificates import three_runs, values, write


@pytest.fixture
def runs(tmp_path):
    return three_runs(tmp_path)


def test_costs_are_counted_or_those_of_the_forecast_procedure(runs):
    """Times fewer: to the dearest of the same question. Where verdicts are open, from .. to."""
    published, fast, fixed = (row[2:] for row in certification_cost_table(runs).rows)
    assert published == [
        4, Cell("75.0 to 100.0 at 0.25, 25.0 to 50.0 at 0.5", "forecast"), "1,032", "100,000", Cell("1.0", "", True),
    ]  # fmt: skip
    samples = 32 + (100 + 400 + 60 + 0) / 4
    assert fast == [4, Cell("50.0 at 0.25, 25.0 at 0.5"), f"{samples:,.0f}", "1,250", Cell("80.0", "", True)]
    assert fixed[1:] == [Cell("–"), "1,100", "5,000", Cell("20.0", "", True)]


def test_costs_are_compared_on_the_images_of_both(tmp_path):
    """A dear image that only one run has seen is no saving of the other."""
    rows = [values(0.5, 1, 100)] * 4
    paths = [
        write(tmp_path / "cheap", rows, [10, 10, 10, 1000]),
        write(tmp_path / "dear", rows, [20, 40, 60, 10_000], start=1),
        write(tmp_path / "elsewhere", rows, [10**6] * 4, start=10),
        write(tmp_path / "unknown", rows, [None] * 4),
    ]
    cheap, dear, elsewhere, unknown = (row[5:] for row in certification_cost_table(read_runs(paths)).rows)
    assert cheap == ["258", Cell("1.0", "", True)]  # of images 1 to 3: 20 + 40 + 60 for 10 + 10 + 1000
    assert dear == ["2,530", Cell(f"{1020 / 120:,.1f}", "", True)]
    assert elsewhere == ["1,000,000", Cell("1.0", "", True)]
    assert unknown == ["not recorded", None]


def test_without_evaluations_there_is_no_saving(tmp_path):
    records = Records(tmp_path / "old", "fingerprint")
    records.append([certified_record(**values(0.5, 1, 10), evaluator="curve")])
    (row,) = certification_cost_table(read_runs([tmp_path / "old", tmp_path / "old"])[:1]).rows
    assert row[5:] == ["not recorded", None]


@pytest.mark.parametrize("other", [{"name": "other"}, {"data": "other"}, {"sigma": 0.5}, {"alpha": 0.05}])
def test_costs_of_certificates_of_another_meaning_are_not_compared(tmp_path, other):
    paths = [
        write(tmp_path / "dear", [values(0.5, 1, 100)], [1000]),
        write(tmp_path / "cheap", [values(0.5, 1, 100)], [10], **other),
    ]
    assert [row[6] for row in certification_cost_table(read_runs(paths)).rows] == [Cell("1.0", "", True)] * 2


def test_another_number_of_samples_is_noted(tmp_path):
    paths = [
        write(tmp_path / "dear", [values(0.5, 1, 100)], [1000], n=100_000),
        write(tmp_path / "cheap", [values(0.5, 1, 100)], [10], n=100),
    ]
    table = certification_cost_table(read_runs(paths))
    assert [row[6].text for row in table.rows] == ["1.0", "100.0"]
    assert "different numbers of samples n at most: dear, curve: 100,000; cheap, curve: 100." in table.notes[-1]
    assert len(certification_cost_table(read_runs(paths[:1] * 2)[:1]).notes) == 1
