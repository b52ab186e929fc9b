"""Numbers that are not JSON, and digits in the place of no number, are refused in lines with a correct checksum."""

import json
import zlib

import numpy as np
import pytest

from common.records.column_fields import Unfit
from common.records.number_texts import runs_of
from common.records.reading import read_table
from common.records.rows import SEAL, Header, header_line, record_line
from tests.common.records.made import clean_record

LINE = b'{"kind": "x", "a": [0, -1, 2.50], "c": {"d": 10, "e": -0.5}, "q": 0, "f": 12345678901234.5'
MUTANTS = [
    (b"10", b"010"), (b"10", b""), (b"-0.5", b"-00.5"), (b"0.5", b".5"), (b"2.50", b"2."), (b"-1", b"-"),
    (b"-1", b"-01"), (b"[0", b"[00"), (b'"a": [0', b'"a0": ['), (b'"q": 0', b'"q0": '),
    (b'"q": 0', b'0"q": '), (b"34.5", b"34.5 "), (b"2.50", b"2.-5"), (b"10", b"1-0"), (b"10", b"--1"),
    (b"4.5", b"45"), (b"12345678901234.5", b"12345678901234.56"), (b"10", b"1234567890123456"), (b'"x"', b'"y"'),
    (b"[0, -1", b"[0, 1, -1"), (b"10", b"1e1"),
]  # fmt: skip


def sealed_lines(*bodies):
    seal = b', "crc": "%08x"}\n'
    return b"".join(body + seal % zlib.crc32(body) for body in bodies)


def values(runs):
    """Numbers of the lines, by the runs that each of them has in `LINE`."""
    numbers = [(0, False), (1, False), (2, True), (4, False), (5, True), (7, False), (8, True)]
    return [runs.numbers(*number).tolist() for number in numbers]


def test_numbers_of_lines_are_those_of_the_json_reader():
    """The same floats to the last bit, with the sign of a zero."""
    changes = [
        (b"0, ", b"-12, "),
        (b"2.50", b"-0.0"),
        (b"10", b"123456789012345"),
        (b"-0.5", b"7.00012"),
        (b"2.5", b"314.15"),
    ]
    bodies = [LINE, *(LINE.replace(old, new, 1) for old, new in changes)]
    found = values(runs_of(sealed_lines(*bodies)))
    for body, *numbers in zip(bodies, *found, strict=True):
        row = json.loads(body + b"}")
        assert str(numbers) == str([*map(float, [*row["a"], *row["c"].values(), row["q"], row["f"]])])


@pytest.mark.parametrize(("old", "new"), MUTANTS)
def test_another_text_in_one_line_is_refused(old, new):
    """Either the text around the numbers differs, or a number is none that both readers read alike."""
    assert LINE.replace(old, new) != LINE
    runs = runs_of(sealed_lines(LINE, LINE.replace(old, new), LINE))
    if runs is not None:
        with pytest.raises(Unfit):
            values(runs)


def test_runs_that_are_alike_in_all_lines_are_known():
    runs = runs_of(sealed_lines(LINE, LINE.replace(b"10", b"11").replace(b"2.50", b"2.5"), LINE))
    assert np.flatnonzero(~runs.constant).tolist() == [3, 4]


@pytest.mark.parametrize(
    ("old", "new"), [(b'"label": 1', b'"label": 01'), (b'"label": 1', b'"lab1el": '), (b'"index": 5', b'5"index": ')]
)
def test_a_file_of_alike_lines_with_one_that_is_no_json_is_damaged(tmp_path, old, new):
    lines = [record_line(clean_record(index=i, label=1)).rstrip(b"\n") for i in range(12)]
    body = lines[5][:-SEAL]
    assert body.count(old) == 1
    body = body.replace(old, new)
    lines[5] = b'%b, "crc": "%08x"}' % (body, zlib.crc32(b"}", zlib.crc32(body)))
    file = tmp_path / "part-00000-1-aaaaaaaa.jsonl"
    file.write_bytes(header_line(Header("f", {}, "")) + b"\n".join(lines) + b"\n")
    with pytest.raises(ValueError, match="line 7"):
        read_table(file)
