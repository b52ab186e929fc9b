"""Records are checked against themselves: edited lines, contradictory values and labels name file, line and remedy."""

import json

import pytest

from common.numerics.finding import Finding
from common.records.rows import record_line, sealed, unsealed
from common.records.schema import ClaimedRecord, Cost, ForecastRecord, GradientCheckRecord, Role
from common.records.store import Records
from tests.common.records.made import attacked_record, certified_record, clean_record

ROWS = [
    clean_record(0, [1, 2], 1),
    attacked_record(1, [2, 1], 1, random_predictions=[1, 1], curve=[1.0, 0.5], queries=3, images={"clean": "x"}),
    certified_record(2, 1, 0.25, count=99),
    certified_record(3, 1, 0.5, kind=ForecastRecord, procedure=1000, undecided=[0.75]),
    certified_record(4, -1, 0.0, kind=ClaimedRecord),
    GradientCheckRecord(evaluator="check", index=5, label=1, verified=True, findings=[Finding("a", True, 0.0, "b")]),
]

CONTRADICTIONS = {
    "index": (clean_record, {"index": -1}),
    "index above": (clean_record, {"index": 2**32}),
    "label": (clean_record, {"label": -1}),
    "seed": (clean_record, {"seed": -1}),
    "predictions": (clean_record, {"predictions": []}),
    "predictions of -1": (clean_record, {"predictions": [1, -1]}),
    "clean_predictions": (attacked_record, {"clean_predictions": [1, 1]}),
    "random_predictions": (attacked_record, {"random_predictions": [1, 1]}),
    "distance": (attacked_record, {"distance": 0.11, "eps": 0.1}),
    "distance in L2": (attacked_record, {"distance": 0.51, "eps": 0.5, "norm": "L2"}),
    "distance in LPIPS": (attacked_record, {"distance": 0.06, "eps": 0.05, "norm": "LPIPS"}),
    "distance below 0": (attacked_record, {"distance": -0.01}),
    "within_budget": (attacked_record, {"within_budget": False}),
    "eps": (attacked_record, {"eps": 0.0, "distance": 0.0}),
    "votes": (attacked_record, {"votes": 3}),
    "votes of a majority": (attacked_record, {"rule": "majority"}),
    "resubmissions": (attacked_record, {"resubmissions": 0}),
    "queries": (attacked_record, {"queries": -1}),
    "curve": (attacked_record, {"curve": [1.0, 1.5]}),
    "dead": (attacked_record, {"dead": 1.1}),
    "prediction": (certified_record, {"prediction": -2}),
    "radius": (certified_record, {"radius": 1e9}),
    "radius of an abstention": (certified_record, {"prediction": -1, "radius": 0.5}),
    "radius below 0": (certified_record, {"radius": -0.5, "radius_linf": -0.5}),
    "radius_linf": (certified_record, {"radius_linf": 0.6}),
    "p_lower": (certified_record, {"p_lower": 1.5}),
    "count": (certified_record, {"count": 101}),
    "procedure": (certified_record, {"kind": ForecastRecord, "procedure": 99}),
    "undecided": (certified_record, {"kind": ForecastRecord, "procedure": 100, "undecided": [-0.5]}),
    "evaluations": (certified_record, {"kind": ForecastRecord, "procedure": 100, "evaluations": -1}),
    "verified": (
        GradientCheckRecord,
        {"evaluator": "a", "index": 0, "label": 0, "verified": True, "findings": [Finding("a", False, 1.0, "b")]},
    ),
}


@pytest.mark.parametrize(("make", "fields"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_values_that_contradict_each_other_are_refused_by_name(make, fields, request):
    name = request.node.callspec.id.split(" ")[0]
    with pytest.raises(ValueError, match=rf"a record's {name} .*must be .*; got"):
        make(**fields)


def test_the_budget_leaves_room_for_rounding():
    for norm, eps in (("Linf", 8 / 255), ("L2", 0.5), ("L1", 12.0), ("LPIPS", 0.05)):
        assert attacked_record(distance=eps * (1 + 1e-6), eps=eps, norm=norm).within_budget


def written(tmp_path, rows=ROWS):
    records = Records(tmp_path, "f", {"seed": 0})
    records.append(rows)
    records.close()
    (part,) = tmp_path.glob("part-*")
    return part


EDITS = {  # line, text, other text: each leaves a row that is valid by itself
    "a prediction": (2, b'"predictions": [1, 2]', b'"predictions": [1, 1]'),
    "a label": (3, b'"label": 1', b'"label": 2'),
    "an index": (2, b'"index": 0', b'"index": 9'),
    "a distance": (3, b'"distance": 0.0313725', b'"distance": 0.0013725'),
    "a radius": (4, b'"radius": 0.25', b'"radius": 0.75'),
    "a verdict": (5, b'"undecided": [0.75]', b'"undecided": [0.25]'),
    "an image": (3, b'"clean": "x"', b'"clean": "y"'),
    "a checksum": (4, b'"crc": "', b'"crc": "0'),
    "a space": (2, b'"index": 0', b'"index":  0'),
    "the settings": (1, b'"seed": 0', b'"seed": 1'),
    "the fingerprint": (1, b'"fingerprint": "f"', b'"fingerprint": "g"'),
}


@pytest.mark.parametrize(("line", "old", "new"), EDITS.values(), ids=EDITS)
@pytest.mark.parametrize("last", [False, True])
def test_an_edited_line_is_refused_with_file_line_and_remedy(tmp_path, line, old, new, last):
    """The last line too, whose damage looks like that of a kill."""
    part = written(tmp_path)
    lines = part.read_bytes().splitlines(keepends=True)
    assert old in lines[line - 1]
    lines[line - 1] = lines[line - 1].replace(old, new)
    part.write_bytes(b"".join(lines[:line] if last else lines))
    for read in (Records.read, Records.describe, lambda path: Records(path, "f")):
        with pytest.raises(ValueError, match=rf"{part.name}, line {line} is damaged \(it.*\)\. Delete .* run the same"):
            read(tmp_path)


@pytest.mark.parametrize("change", [{"correct": [True]}, {"radius": 1e9}, {"role": "worst_case"}, {"label": -3}])
def test_a_forged_line_of_impossible_values_is_refused(tmp_path, change):
    part = written(tmp_path, [certified_record(2)])
    *head, last = part.read_bytes().splitlines(keepends=True)
    forged = sealed(json.dumps({**unsealed(last.rstrip(b"\n")), **change}))
    part.write_bytes(b"".join([*head, forged]))
    with pytest.raises(ValueError, match=rf"line 2 is damaged \(.*{next(iter(change))}"):
        Records.read(tmp_path)


def test_two_labels_of_one_image_are_refused(tmp_path):
    part = written(tmp_path, [clean_record(0), clean_record(1), attacked_record(1, label=2)])
    with pytest.raises(ValueError, match=rf"{part.name}, line 4 is damaged \(its label is 2, but 'clean' has 1\)"):
        Records.read(tmp_path)


def test_a_torn_line_is_skipped_and_a_whole_one_is_not(tmp_path):
    part = written(tmp_path)
    whole = part.read_bytes()
    part.write_bytes(whole[:-1])
    assert len(Records.read(tmp_path)) == len(ROWS)
    part.write_bytes(whole[:-3])
    assert len(Records.read(tmp_path)) == len(ROWS) - 1
    part.write_bytes(whole[:-3] + b"\n")
    with pytest.raises(ValueError, match="line 7 is damaged"):
        Records.read(tmp_path)


def test_rows_are_the_same_after_the_file():
    for row in [*ROWS, clean_record(0, cost=Cost(2.0, 0.5, 3), role=Role.VARIANT)]:
        assert unsealed(record_line(row).rstrip(b"\n"))["evaluator"] == row.evaluator
