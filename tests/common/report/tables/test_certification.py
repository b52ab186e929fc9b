"""Tables of certified accuracy and its cost, of records with known numbers."""

import pytest

from common.records.schema import CertifiedRecord, ClaimedRecord, Cost, ForecastRecord
from common.records.store import Records
from common.report.figures.certified import certified_curves
from common.report.figures.drawing import LIGHT
from common.report.runs import read_runs
from common.report.tables.certification import certification_cost_table, certified_table, claims_table
from common.report.tables.comparisons import run_table
from common.report.tables.table import Cell
from common.report.tables.verdicts import verdicts_table
from tests.common.records.made import certified_record

TARGETS = [0.25, 0.5]
FORECAST = [  # radius, prediction, undecided targets
    (0.5, 1, []), (0.25, 1, [0.5]), (0.25, 1, []), (0.0, -1, [0.25]),
]  # fmt: skip
SPENT = [(0.61, 1, 100), (0.3, 1, 400), (0.1, 1, 60), (0.0, -1, 0)]  # radius, prediction, samples


def write(path, rows, costs, start=0, **smoothing):
    smoothing = {"sigma": 0.25, "n0": 32, "n": 1000, "alpha": 0.001, **smoothing}
    part = {"class": "x.Certified", "name": "curve", "smoothing": smoothing}
    records = Records(path, "fingerprint", {"classifier": {"class": "x"}, "evaluators": [part], "data": {"of": "both"}})
    pairs = enumerate(zip(rows, costs, strict=True), start)
    records.append([certified_record(i, **row, evaluator="curve", cost=Cost(evaluations=c)) for i, (row, c) in pairs])
    return path


def values(radius, prediction, samples, **more):
    kind = ForecastRecord if "procedure" in more else CertifiedRecord
    radii = {"radius": radius, "radius_linf": radius / 8}
    return {"prediction": prediction, **radii, "samples": samples, "kind": kind, **more}


@pytest.fixture
def runs(tmp_path):
    forecast = {"samples": 10, "procedure": 1032, "evaluations": 100_000}
    published = [values(radius, c, **forecast, undecided=undecided) for radius, c, undecided in FORECAST]
    fast = [values(*row) for row in SPENT]
    bound = [values(0.4, 1, 1000), values(0.7, 1, 1000), values(0.1, 2, 1000), values(0.0, -1, 1000)]
    paths = [
        write(tmp_path / "published", published, [7.0] * 4, targets=TARGETS),
        write(tmp_path / "fast", fast, [1000, 3000, 900, 100], targets=TARGETS),
        write(tmp_path / "fixed", bound, [5000] * 4, n0=100),
    ]
    return read_runs(paths)


def test_costs_are_counted_or_those_of_the_forecast_procedure(runs):
    """Times fewer: to the dearest of the same question. Where verdicts are open, from .. to."""
    published, fast, fixed = (row[2:] for row in certification_cost_table(runs).rows)
    assert published == [
        4, Cell("75.0 to 100.0 at 0.25, 25.0 to 50.0 at 0.5", "forecast"), "1,032", "100,000", Cell("1.0", "", True),
    ]  # fmt: skip
    samples = 32 + (100 + 400 + 60 + 0) / 4
    assert fast == [4, Cell("50.0 at 0.25, 25.0 at 0.5"), f"{samples:,.0f}", "1,250", Cell("80.0", "", True)]
    assert fixed[1:] == [Cell("–"), "1,100", "5,000", Cell("20.0", "", True)]


def test_verdicts_agree_where_the_forecast_decided(runs):
    """At 0.25 the forecast has 3 certified, 1 open and guessed not; at 0.5 one certified, one open, two not."""
    table = verdicts_table(runs)
    fast, half, *fixed = table.rows
    assert fast == ["fast / published", "curve", "0.25", 4, 3, 2, 1, 1]  # its third image has radius 0.1 only
    assert half == ["fast / published", "curve", "0.5", 4, 3, 3, 1, 1]
    # 0.4, 0.7 and, of another class, 0.1 without targets of its own: at 0.25 and 0.5
    assert fixed == [["fixed / published", "curve", r, 4, 3, n, 1, k] for r, n, k in (("0.25", 2, 1), ("0.5", 2, 0))]
    assert not verdicts_table(runs[1:]).rows


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


def test_abstention_of_labelled_certifiers_is_explained(tmp_path):
    for labelled in (False, True):
        path = write(tmp_path / str(labelled), [values(0.0, -1, 0)], [10], labelled=labelled)
        notes = certified_table(read_runs([path])).notes
        assert any("counts as abstained" in note for note in notes) == labelled


def test_without_evaluations_there_is_no_saving(tmp_path):
    records = Records(tmp_path / "old", "fingerprint")
    records.append([certified_record(**values(0.5, 1, 10), evaluator="curve")])
    (row,) = certification_cost_table(read_runs([tmp_path / "old", tmp_path / "old"])[:1]).rows
    assert row[5:] == ["not recorded", None]


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
