"""Rows are checked against the header of their file: a valid checksum does not make a row of another evaluation."""

import pytest

from common.records.schema import Cost, ForecastRecord
from common.records.store import Records
from tests.common.records.made import attacked_record, certified_record, clean_record

THREATS = {
    "pgd": {"class": "common.robustness.ThreatModel", "norm": "inf", "eps": 8 / 255},
    "pgd in L2": {"class": "common.robustness.ThreatModel", "norm": 2, "eps": 0.5},
    "flow": {"class": "common.robustness.SpatialThreat", "eps": 0.05},
    "own": {"class": "my.Threat", "radius": 3},
}
COUNTS = {"n0": 60, "n": 100, "alpha": 0.001, "num_classes": 3, "sigma": 0.25}
CERTIFIERS = {
    "certified": {"class": "common.robustness.Smoothing", **COUNTS},
    "sequential": {"class": "common.robustness.Sequential", **COUNTS},
    "forecast": {"class": "common.robustness.Forecast", **COUNTS},
    "own certifier": {"class": "my.Certifier", "num_classes": 3},
}
PROTOCOL = {"knows": "model", "resubmissions": 1, "rule": "single", "votes": 1, "draws": 3}
CONFIG = {
    "evaluators": [
        {"name": "clean", "rule": "single", "votes": 1},
        *({"name": name, "threat": threat, **PROTOCOL} for name, threat in THREATS.items()),
        *({"name": name, "smoothing": smoothing} for name, smoothing in CERTIFIERS.items()),
    ],
}


def attacked(name="pgd", eps=8 / 255, norm="Linf", **fields):
    return attacked_record(evaluator=name, eps=eps, norm=norm, **fields)


def forecast(**fields):
    fields = {"kind": ForecastRecord, "procedure": 160, "p_lower": 0.9, "radius": 0.32, **fields}
    return certified_record(evaluator="forecast", **fields)


VALID = [
    clean_record(0),
    attacked(),
    attacked(predictions=[1, 2, 1], clean_predictions=[1, 1, 1], random_predictions=[]),
    attacked("pgd in L2", 0.5, "L2"),
    attacked("flow", 0.05, "spatial"),
    attacked("own", 3.0, "own"),
    attacked("not listed", 0.3, "own", rule="majority", votes=3),
    certified_record(evaluator="certified", count=100, p_lower=0.933254, radius=0.375),
    certified_record(evaluator="sequential", samples=40, p_lower=0.9, radius=0.32),
    certified_record(evaluator="own certifier", samples=7, radius=5.0),
    forecast(p_lower=0.9, radius=0.32, samples=40),
]
FORGED = {
    "eps": attacked(eps=0.5, distance=0.4),
    "eps in L2": attacked("pgd in L2", 0.6, "L2"),
    "eps of a flow": attacked("flow", 0.06, "spatial"),
    "norm": attacked(norm="L2"),
    "norm in L2": attacked("pgd in L2", 0.5, "L1"),
    "rule": attacked(rule="majority", votes=3),
    "resubmissions": attacked(resubmissions=10),
    "knows": attacked(knows="noise"),
    "predictions": clean_record(0, [99]),
    "predictions of an attack": attacked(predictions=[3]),
    "clean_predictions": attacked(clean_predictions=[7]),
    "predictions of two draws": attacked(predictions=[1, 1], clean_predictions=[1, 1], random_predictions=[]),
    "label": clean_record(0, [1], label=3),
    "prediction": certified_record(evaluator="sequential", prediction=4, radius=0.3),
    "prediction that abstains": certified_record(
        evaluator="certified", count=100, p_lower=0.933254, prediction=-1, radius=0.0
    ),
    "samples": certified_record(evaluator="certified", samples=10**15, count=10**15 - 1, p_lower=0.84, radius=0.1),
    "samples fewer": certified_record(evaluator="certified", samples=50, p_lower=0.84, radius=0.1),
    "samples of a forecast": forecast(samples=101),
    "procedure": forecast(procedure=10_100),
    "p_lower": certified_record(evaluator="certified", count=26, p_lower=0.999, radius=0.1),
    "radius": certified_record(evaluator="sequential", p_lower=0.51, radius=1.5),
    "radius too small": certified_record(evaluator="certified", count=100, p_lower=0.933254, radius=0.37),
    "radius far": certified_record(evaluator="sequential", p_lower=0.9, radius=500.0),
    "radius of a forecast": forecast(p_lower=0.9, radius=0.33, samples=40),
    "radius without a majority": certified_record(evaluator="sequential", p_lower=0.5, radius=0.01),
}  # fmt: skip


def written(path, row, config=CONFIG):
    records = Records(path, "f", config)
    records.append([row])
    records.close()


@pytest.mark.parametrize("row", VALID, ids=lambda row: row.evaluator)
def test_a_row_of_its_evaluation_is_read(tmp_path, row):
    written(tmp_path, row)
    assert Records.read(tmp_path) == [row]


@pytest.mark.parametrize("name", FORGED)
def test_a_row_of_another_evaluation_is_refused_by_name(tmp_path, name):
    written(tmp_path, FORGED[name])
    field = name.split(" ")[0]
    for read in (Records.read, lambda path: Records(path, "f", CONFIG)):
        with pytest.raises(
            ValueError, match=rf"line 2 is damaged \(a record's {field} must be .*\)\. Delete that line"
        ):
            read(tmp_path)


@pytest.mark.parametrize("holder", ["classifier", "data"])
def test_classes_are_those_of_the_classifier_and_the_data(tmp_path, holder):
    written(tmp_path, clean_record(0, [5]), {holder: {"num_classes": 5}})
    with pytest.raises(ValueError, match="predictions must be below 5"):
        Records.read(tmp_path)


@pytest.mark.parametrize("config", [{}, {"evaluators": []}, {"evaluators": [{"name": "pgd", "threat": None}]}])
def test_a_header_without_descriptions_refuses_nothing(tmp_path, config):
    written(tmp_path, attacked(eps=0.5), config)
    assert len(Records.read(tmp_path)) == 1


@pytest.mark.parametrize("fields", [{"evaluations": 1e308}, {"seconds": 1e19}, {"peak_bytes": 2**70}])
def test_a_cost_that_sums_beyond_all_numbers_is_refused(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        Cost(**fields)


@pytest.mark.parametrize("field", ["distance", "eps"])
def test_an_integer_that_is_no_float_is_refused_by_name(field):
    with pytest.raises(ValueError, match=rf"a record's {field} must be finite float"):
        attacked_record(**{"eps": 0.1, "distance": 0.1, field: 10**400})
