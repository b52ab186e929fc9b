"""The schema: its keys are those of the README, and every field is checked by its type."""

import re
from collections import defaultdict
from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

import pytest

from common.records import schema
from common.records.fields import type_name
from common.records.rows import read_record
from common.records.schema import KINDS, Cost, Kind, Role, Source
from tests.common.records.made import attacked_record, clean_record

README = (Path(schema.__file__).parent / "README.md").read_text()


def documented():
    """Keys with their types, by kind, of the table in the README."""
    keys = defaultdict(dict)
    for line in README[README.index("## Keys") :].splitlines():
        columns = [column.strip() for column in line.strip("|").split("|")]
        if len(columns) == 4 and "`" in columns[1]:
            kinds = KINDS if columns[0] == "all" else columns[0].split(", ")
            for kind in kinds:
                keys[kind] |= dict.fromkeys(re.findall(r"`(\w+)`", columns[1]), columns[2])
    return keys


def test_the_readme_lists_every_key_with_its_type():
    for kind, record in KINDS.items():
        hints = get_type_hints(record)
        declared = {field.name: type_name(hints[field.name]) for field in fields(record)}
        assert documented()[kind] == {"kind": "Kind", **declared}


def test_every_kind_has_its_dataclass():
    assert set(KINDS) == {kind.value for kind in Kind}
    assert {record.kind.value for record in KINDS.values()} == set(KINDS)
    assert set(re.findall(r"`(\w+\.py)`", README)) == {p.name for p in Path(schema.__file__).parent.rglob("[a-z]*.py")}


def test_json_values_become_enums_and_dataclasses():
    row = {"kind": "clean", "evaluator": "a", "index": 1, "label": 2, "predictions": [2], "role": "variant"}
    record = read_record({**row, "cost": {"seconds": 0.5}})
    assert record == clean_record(1, [2], 2, "a", role=Role.VARIANT)
    assert record.role is Role.VARIANT and record.cost == Cost(seconds=0.5)
    assert record.source == Source("a", 0, Role.VARIANT) and record.correct == [True]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("queries", 1.0),
        ("white_box", 1),
        ("rule", None),
        ("rule", "best"),
        ("knows", "everything"),
        ("role", "x"),
        ("images", {"clean": 3}),
        ("curve", [None]),
    ],
)
def test_a_field_of_another_type_is_refused_by_name(field, value):
    with pytest.raises(ValueError, match=f"a record's {field} must be"):
        attacked_record(**{field: value})


def test_the_title_names_a_seed_other_than_zero():
    assert Source("pgd").title == "pgd" and Source("pgd", 2).title == "pgd (seed 2)"
