"""Numbers that are not JSON, and digits in the place of no number, are refused in lines with a correct checksum."""

import zlib

import pytest

from common.records.number_texts import are_numbers
from common.records.reading import read_table
from common.records.rows import SEAL, Header, header_line, record_line
from tests.common.records.made import clean_record

LINE = b'{"kind": "x", "a": [0, -1, 2.50], "c": {"d": 10, "e": -0.5}, "q": 0\n'
MUTANTS = [
    (b"10", b"010"), (b"10", b""), (b"-0.5", b"-00.5"), (b"0.5", b".5"), (b"2.50", b"2."), (b"-1", b"-"),
    (b"-1", b"-01"), (b"[0", b"[00"), (b'"a": [0', b'"a0": ['), (b'"q": 0', b'"q0": '),
    (b'"q": 0', b'0"q": '), (b"0\n", b"0 \n"),
]  # fmt: skip


def test_numbers_of_a_writer_pass():
    assert are_numbers(LINE * 3)


@pytest.mark.parametrize(("old", "new"), MUTANTS)
def test_another_text_in_one_line_is_refused(old, new):
    assert LINE.replace(old, new) != LINE
    assert not are_numbers(LINE + LINE.replace(old, new) + LINE)


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
