"""Tables of certified accuracy and its cost, of records with known numbers."""

import pytest

from common.records.schema import ClaimedRecord
from common.records.store import Records
from common.report.figures.certified import certified_curves
from common.report.figures.drawing import LIGHT
from common.report.runs import read_runs
from common.report.tables.certification import certified_table, claims_table
from common.report.tables.comparisons import run_table
from common.report.tables.table import Cell
from tests.common.records.made import certified_record
from tests.common.report.certificates import TARGETS, three_runs, values, write


@pytest.fixture
def runs(tmp_path):
    return three_runs(tmp_path)


def test_abstention_of_labelled_certifiers_is_explained(tmp_path):
    for labelled in (False, True):
        path = write(tmp_path / str(labelled), [values(0.0, -1, 0)], [10], labelled=labelled)
        notes = certified_table(read_runs([path])).notes
        assert any("counts as abstained" in note for note in notes) == labelled


def test_certified_accuracy_is_shown_at_the_target_radii(runs):
    table = certified_table(runs)
    assert table.columns[3:-2] == ["r = 0", "r = 0.25", "r = 0.5", "r = 0.75", "r = 1"]
    published, fast, fixed = (row[3:-2] for row in table.rows)
    assert published == [None, Cell("75.0 to 100.0", "forecast"), Cell("25.0 to 50.0", "forecast"), None, None]
    assert fast[0] is None and fast[1][0] == 0.5 and fast[2][0] == 0.25 and fast[3:] == [None, None]
    assert [share[0] for share in fixed] == [0.5, 0.5, 0.25, 0, 0]
    assert "L-inf radius r / sqrt(D): r / 8." in table.notes[0] and "Forecasts" in table.notes[1]


def test_a_curve_steps_down_at_its_targets_and_is_marked_as_a_forecast(runs):
    figure = certified_curves(runs, LIGHT)
    (axes,) = figure.axes
    drawn = [[(round(float(x), 2), float(y)) for x, y in line.get_xydata()][:-1] for line in axes.lines[:3]]
    assert drawn[0] == [(0, 75), (0.25, 25), (0.5, 0)]
    assert drawn[1] == [(0, 50), (0.25, 25), (0.5, 0)]
    assert drawn[2] == [(0, 50), (0.4, 25), (0.7, 0)]
    said = [text.get_text() for legend in [*figure.legends, axes.get_legend()] if legend for text in legend.get_texts()]
    assert said == ["published, forecast", "fast", "fixed"]


def test_forecasts_are_not_listed_beside_claims(tmp_path):
    records = Records(tmp_path / "all", "fingerprint")
    records.append([certified_record(**values(0.5, 1, 10, procedure=1032), evaluator="forecast")])
    records.append([certified_record(**values(0.3, 1, 100), evaluator="fast")])
    records.append([certified_record(radius=3.0, samples=1, kind=ClaimedRecord, evaluator="claimed")])
    rows = claims_table(read_runs([tmp_path / "all"])).rows
    assert [row[1:3] for row in rows] == [["fast", "certificate"], ["claimed", "claimed, not certified"]]


def test_undecided_verdicts_are_noted_where_runs_are_compared(runs):
    notes = run_table(runs[:2]).notes
    assert [f"published, curve: forecast; 1 undecided at {r}, taken as the likelier." for r in TARGETS] == [
        note for note in notes if "undecided" in note
    ]
