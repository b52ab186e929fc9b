"""Table of the cost of certification, of records with known numbers."""

import pytest

from common.records.store import Records
from common.report.runs import read_runs
from common.report.tables.certification_cost import certification_cost_table
from common.report.tables.table import Cell
from tests.common.records.made import certified_record
from tests.common.report.certificates import TARGETS, three_runs, values, write


@pytest.fixture
def runs(tmp_path):
    return three_runs(tmp_path)


def times(ratio):
    return Cell(f"{ratio:,.1f}", "", True)


def test_costs_are_counted_or_those_of_the_forecast_procedure(runs):
    """Times fewer: to the dearest of the same question. Where verdicts are open, from .. to."""
    published, fast, fixed = (row[2:] for row in certification_cost_table(runs).rows)
    assert published == [
        4, Cell("75.0 to 100.0 at 0.25, 25.0 to 50.0 at 0.5", "forecast"), "1,032", "100,000", times(1), times(1),
    ]  # fmt: skip
    samples = 32 + (100 + 400 + 60 + 0) / 4
    assert fast == [4, Cell("50.0 at 0.25, 25.0 at 0.5"), f"{samples:,.0f}", "1,250", times(80), times(50)]
    assert fixed[1:] == [Cell("–"), "1,100", "5,000", times(20), times(20)]


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
    assert cheap == ["258", times(1), times(1)]  # of images 1 to 3: 20 + 40 + 60 for 10 + 10 + 1000
    assert dear == ["2,530", times(1020 / 120), times(1020 / 120)]
    assert elsewhere == ["1,000,000", times(1), times(1)]
    assert unknown == ["not recorded", None, None]


def test_without_evaluations_there_is_no_saving(tmp_path):
    records = Records(tmp_path / "old", "fingerprint")
    records.append([certified_record(**values(0.5, 1, 10), evaluator="curve")])
    (row,) = certification_cost_table(read_runs([tmp_path / "old", tmp_path / "old"])[:1]).rows
    assert row[5:] == ["not recorded", None, None]


@pytest.mark.parametrize("other", [{"name": "other"}, {"data": "other"}, {"sigma": 0.5}, {"alpha": 0.05}])
def test_costs_of_certificates_of_another_meaning_are_not_compared(tmp_path, other):
    paths = [
        write(tmp_path / "dear", [values(0.5, 1, 100)], [1000]),
        write(tmp_path / "cheap", [values(0.5, 1, 100)], [10], **other),
    ]
    assert [row[6] for row in certification_cost_table(read_runs(paths)).rows] == [times(1)] * 2


def test_another_number_of_samples_is_noted(tmp_path):
    paths = [
        write(tmp_path / "dear", [values(0.5, 1, 100)], [1000], n=100_000),
        write(tmp_path / "cheap", [values(0.5, 1, 100)], [10], n=100),
    ]
    table = certification_cost_table(read_runs(paths))
    assert [row[6].text for row in table.rows] == ["1.0", "100.0"]
    assert "different numbers of samples n at most: dear, curve: 100,000; cheap, curve: 100." in table.notes[-1]
    assert len(certification_cost_table(read_runs(paths[:1] * 2)[:1]).notes) == 1


def test_the_saving_on_certified_images_leaves_out_images_given_up_early(tmp_path):
    """Of 4 images the fast run certifies the first two at 0.25, its smallest target: 200,000 for 1000 + 3000."""
    dear = write(tmp_path / "dear", [values(0.5, 1, 1000)] * 4, [100_000] * 4, targets=[0.125])
    spent = [values(0.3, 1, 100), values(0.25, 1, 400), values(0.3, 2, 0), values(0.2, 1, 60)]
    fast = write(tmp_path / "fast", spent, [1000, 3000, 10, 500], targets=TARGETS, labelled=True)
    none = write(tmp_path / "none", [values(0.2, 1, 60)] * 4, [500] * 4, targets=TARGETS)
    free = write(tmp_path / "free", [values(0.1, 1, 9), *[values(0.2, 1, 9)] * 3], [1, 2, 2, 2])
    table = certification_cost_table(read_runs([dear, fast, none, free]))
    assert table.columns[-2:] == ["Times fewer", "Times fewer, certified"]
    expected = [(1, 1), (400_000 / 4510, 200_000 / 4000), (200, None), (400_000 / 7, 50_000)]
    assert [row[-2:] for row in table.rows] == [[times(a), None if b is None else times(b)] for a, b in expected]


def test_open_verdicts_of_a_forecast_are_not_taken_for_certified(tmp_path):
    forecast = {"samples": 10, "procedure": 1032}
    rows = [values(0.25, 1, **forecast, evaluations=10), values(0.25, 1, **forecast, evaluations=40, undecided=[0.25])]
    cheap = write(tmp_path / "cheap", rows, [1, 1], targets=[0.25])
    dear = write(tmp_path / "dear", [values(0.5, 1, 1000)] * 2, [1000, 1000])
    assert certification_cost_table(read_runs([cheap, dear])).rows[0][-2:] == [times(40), times(100)]


@pytest.mark.parametrize("labelled", [False, True])
def test_the_need_of_labels_is_noted(tmp_path, labelled):
    paths = [write(tmp_path / "run", [values(0.5, 1, 100)], [10], labelled=labelled)]
    notes = certification_cost_table(read_runs(paths)).notes
    assert any("need the label" in note for note in notes) == labelled
