"""Processor time of reading records, relative to the parsing of their lines."""

import json
import random
from time import process_time

from common.records.reading import read_table
from common.records.rows import Header, header_line, record_line, sealed
from common.records.schema import Cost
from common.records.summary import summarise
from tests.benchmarks.test_report_cost import ROWS
from tests.common.records.made import attacked_record


def spent(call):
    start = process_time()
    call()
    return process_time() - start


def test_many_rows_cost_few_times_their_text(tmp_path):
    """Processor time relative to `json.loads` of the same lines; it was 14 times, and 2.3 are measured."""
    draw = random.Random(0)
    rows = [attacked_record(i, [draw.randrange(9)], 1, eps=0.03, cost=Cost(seconds=draw.random())) for i in range(2000)]
    (tmp_path / "part-0.jsonl").write_bytes(header_line(Header("f", {})) + b"".join(map(record_line, rows)))
    lines = (tmp_path / "part-0.jsonl").read_bytes().splitlines()
    pairs = [
        (spent(lambda: summarise(read_table(tmp_path)[1])), spent(lambda: list(map(json.loads, lines))))
        for _ in range(5)
    ]
    assert min(ours for ours, _ in pairs) <= 5 * min(theirs for _, theirs in pairs)


def test_rows_with_all_fields_cost_a_fraction_of_their_parsing(tmp_path):
    """Processor time relative to `json.loads` of the same lines; 0.25 are measured, 0.7 with a text per number."""
    draw = random.Random(0)
    lines = [
        sealed(
            ROWS["all fields"].format(i=i, y=i % 10, a=draw.choice([i % 10, (i + 1) % 10]), x=f"{draw.random():.6f}")
        )
        for i in range(10_000)
    ]
    (tmp_path / "part-0.jsonl").write_bytes(header_line(Header("f", {})) + b"".join(lines))
    pairs = [(spent(lambda: read_table(tmp_path)), spent(lambda: list(map(json.loads, lines)))) for _ in range(5)]
    assert min(ours for ours, _ in pairs) <= 0.45 * min(theirs for _, theirs in pairs)
