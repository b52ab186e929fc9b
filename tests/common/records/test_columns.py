"""Rows read as columns are those read line by line, and their numbers those of the rows one by one."""

import json
import random
from collections import Counter
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from common.records import alike_lines, blocks, reading, row_lines
from common.records.intervals import share
from common.records.reading import read_table
from common.records.rows import Header, header_line, parse, record_line, sealed, unsealed
from common.records.schema import (
    CertifiedRecord,
    ClaimedRecord,
    Cost,
    ForecastRecord,
    GradientCheckRecord,
    Source,
)
from common.records.store import Records
from common.records.summary import summarise
from common.records.table import Table
from common.records.worst_case import per_image_minimum
from tests.common.records.made import attacked_record, certified_record, clean_record

NAMES = ["pgd", "größe: {5}", 'a "b" \\ c']


def random_cost(draw):
    peak = draw.choice([None, draw.randrange(2**40)])
    return draw.choice([None, Cost(draw.randrange(1000), draw.random(), peak), Cost(seconds=draw.random())])


def random_row(draw, index, draws=3):
    """A row of any kind, with any of its optional fields."""
    label = index % 4
    common = {"index": index, "label": label, "cost": random_cost(draw), "seed": draw.choice([0, 0, 7])}
    guesses = [[draw.randrange(4) for _ in range(draws)] for _ in range(3)]
    optional = {
        "queries": draw.randrange(9), "curve": [draw.random() for _ in range(draw.randrange(4))],
        "broken": draw.random() < 0.5, "dead": draw.random(), "zero_gradient": True, "probabilities": False,
        "repeatable": True, "images": {"clean": "AAAA"}, "verified": False, "random_predictions": guesses[2],
    }  # fmt: skip
    some = {name: value for name, value in optional.items() if draw.random() < 0.4}
    name = draw.choice(NAMES)
    kind = draw.randrange(6)
    if kind == 0:
        return clean_record(predictions=guesses[0], **common)
    if kind == 1:
        far = draw.random() / 40
        return attacked_record(
            predictions=guesses[0],
            evaluator=name,
            clean_predictions=guesses[1],
            distance=far,
            eps=0.03,
            **common,
            **some,
        )
    if kind == 2:
        finding = {"name": "n", "passed": True, "error": 1e-5, "sentence": "Good: it is.", "decided": True}
        return GradientCheckRecord(evaluator="check", verified=True, findings=[finding], **common)
    abstains = draw.random() < 0.2
    radius = 0.0 if abstains else draw.random()
    fields = {"evaluator": f"c{kind}", "samples": 100, "count": draw.randrange(101), **common}
    if kind == 5:
        fields |= {"procedure": 200, "undecided": [0.25] * draw.randrange(3), "evaluations": draw.choice([None, 5])}
    made = {3: CertifiedRecord, 4: ClaimedRecord, 5: ForecastRecord}[kind]
    return certified_record(prediction=-1 if abstains else draw.randrange(4), radius=radius, kind=made, **fields)


def random_rows(seed, n=120):
    draw = random.Random(seed)
    rows = [random_row(draw, index) for index in range(n)]
    return [row for index, row in enumerate(rows) if draw.random() < 0.9 or index == 0]


def in_full(rows):
    """Rows with their costs, which take no part in their equality."""
    return [(row, row.cost) for row in rows]


@pytest.mark.parametrize("seed", range(4))
def test_a_file_read_as_columns_holds_the_rows_read_line_by_line(seed, tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "SIZE", 3000)
    rows = random_rows(seed)
    records = Records(tmp_path, "f")
    records.append(rows)
    (part,) = tmp_path.glob("part-*")
    expected = sorted(parse(part)[1], key=lambda row: row.key)
    assert in_full(read_table(tmp_path)[1]) == in_full(expected) == in_full(sorted(rows, key=lambda row: row.key))
    assert in_full(Table.of(rows)) == in_full(expected)
    merged = records.merge()
    assert in_full(read_table(merged)[1]) == [(row, None) for row in expected]
    assert in_full(read_table(tmp_path)[1]) == in_full(expected)  # a row of both files keeps its cost


@pytest.mark.parametrize("seed", range(4))
def test_lines_of_columns_are_those_of_the_rows_one_by_one(seed, tmp_path, monkeypatch):
    """Also of rows that were read, of chunks in which a field has its default throughout, and of small numbers."""
    monkeypatch.setattr(row_lines, "CHUNK", 1 + 17 * seed)
    small = [
        attacked_record(index=500 + i, distance=0.0, dead=x, curve=[x, 1.0]) for i, x in enumerate((1e-5, 3e-17, 0.1))
    ]
    rows = sorted({row.key: row for row in [*random_rows(seed), *small]}.values(), key=lambda row: row.key)
    expected = b"".join(record_line(row, cost=False) for row in rows)
    assert b"".join(row_lines.lines(Table.of(rows))) == expected
    store = Records(tmp_path, "f")
    store.append(rows)
    _, *lines = store.merge().read_bytes().splitlines(keepends=True)
    assert b"".join(lines) == expected


def test_a_store_knows_the_rows_of_all_processes_after_a_merge(tmp_path):
    one, other = Records(tmp_path, "f", rank=0), Records(tmp_path, "f", rank=1)
    one.append([clean_record(1)])
    other.append([clean_record(2)])
    assert one.done(Source("clean")) == {1}
    one.merge()
    assert one.done(Source("clean")) == {1, 2}


def by_hand(rows):
    """Metrics of the rows of one evaluation, one row after the other."""
    n, found = len(rows), {}
    if isinstance(rows[0], CertifiedRecord):
        claims = isinstance(rows[0], ClaimedRecord)
        right = [row.radius for row in rows if row.prediction == row.label and not claims]
        radii = [step / 4 for step in range(int(4 * max(1.0, *(row.radius for row in rows))) + 1)]
        found = {f"certified@{radius:g}": share(sum(x >= radius for x in right), n) for radius in radii}
        found["abstained"] = share(sum(row.prediction == -1 for row in rows), n)
        return found | {"samples": (100.0, 100, 100)}
    for start, name in [("", "predictions"), ("clean ", "clean_predictions")]:
        if hasattr(rows[0], name):
            pairs = [(getattr(row, name), row.label) for row in rows]
            draws = len(pairs[0][0])
            right = [[guess == label for guess in guesses] for guesses, label in pairs]
            votes = [min(Counter(guesses).items(), key=lambda item: (-item[1], item[0]))[0] for guesses, _ in pairs]
            found[f"{start}Avg"] = share(sum(map(sum, right)) / draws, n)
            found |= {} if start else {"first draw": share(sum(one[0] for one in right), n)}
            found[f"{start}Wor@{draws}"] = share(sum(map(all, right)), n)
            found[f"{start}MV@{draws}"] = share(sum(v == row.label for v, row in zip(votes, rows, strict=True)), n)
    return found


@pytest.mark.parametrize("seed", range(3))
def test_summaries_of_columns_are_those_of_the_rows_one_by_one(seed, tmp_path):
    rows = [row for row in random_rows(seed, 300) if not isinstance(row, GradientCheckRecord)]
    Records(tmp_path, "f").append(rows)
    groups = {}
    for row in sorted(rows, key=lambda row: row.key):
        groups.setdefault(row.source, []).append(row)
    found = {one.source: (one.n, one.metrics) for one in summarise(read_table(tmp_path)[1])}
    assert found == {source: (len(same), by_hand(same)) for source, same in groups.items()}


def test_rows_of_one_evaluation_are_of_one_kind():
    with pytest.raises(ValueError, match="records of 'a' must be of one kind; got several"):
        summarise([clean_record(0, evaluator="a"), attacked_record(1, evaluator="a")])


def test_the_minimum_over_attacks_is_that_of_the_rows_one_by_one():
    draw = random.Random(1)
    rows = [
        attacked_record(index, [draw.randrange(3) for _ in range(5)], 1, name) for name in "abc" for index in range(60)
    ]
    least = [min(sum(guess == 1 for guess in row.predictions) for row in rows if row.index == i) for i in range(60)]
    assert [row.predictions.count(1) for row in per_image_minimum(rows)] == least


CONFIG = {
    "evaluators": [
        {"class": "x.Attacked", "name": "pgd", "draws": 3, "threat": {"class": "x.T", "eps": 0.03}},
        {
            "class": "x.Certified",
            "name": "certified",
            "smoothing": {
                "class": "common.robustness.Smoothing",
                "sigma": 0.5,
                "n0": 10,
                "n": 100,
                "alpha": 0.001,
                "num_classes": 4,
            },
        },
    ]
}
CERTIFICATE = {"samples": 100, "count": 99, "p_lower": 0.911373, "radius": 0.674629, "radius_linf": 0.01}
VALUES = {
    "index": [-1, 2**32, 1.0, True, "1", None, 2**70],
    "label": [-1, 9, 4, 1.5, False],
    "evaluator": ["", "x" * 1001, 5, None, "\ud800"],
    "seed": [-1, 2**63, True, 1.0],
    "role": ["worst_case", "none", 5, []],
    "predictions": [[], [-1, 0, 0], [0, 0], [9, 0, 0], [True, 0, 0], [0.0, 0, 0], "000", None, [[0], 0, 0]],
    "clean_predictions": [[], [0], [-1, 0, 0]],
    "random_predictions": [[0], [0, 0, 9]],
    "distance": [-0.1, 0.04, float("nan"), float("inf"), "0", None, True, 10**400],
    "eps": [0.0, 0.05, -1, 1e10],
    "norm": [5, None],
    "within_budget": [False, 1],
    "knows": ["all", None],
    "rule": ["majority", "other"],
    "votes": [0, 2],
    "resubmissions": [0],
    "queries": [-1, 1.5, True],
    "curve": [[1.5], [-0.1], [True], ["0"], 1.0],
    "dead": [1.5, -1],
    "broken": [0, "no"],
    "images": [{"clean": 5}, [], {"clean": "\ud800"}],
    "cost": [{"evaluations": -1}, {"other": 1}, {"seconds": "1"}, [], {"peak_bytes": 1.5}],
    "radius": [-1, 1001, 2.0, 0.1, 0],
    "radius_linf": [1.0, -1],
    "p_lower": [1.5, 0.3, 0.92],
    "samples": [99, 101],
    "count": [101, -1, 50],
    "prediction": [-2, -1, 4],
    "kind": ["none", 5, None, []],
    "unknown": [1],
}
TOGETHER = [
    {"p_lower": 0.9, "radius": 0.640775},  # too low for its count
    {"p_lower": 0.5, "radius": 0.0, "count": 61},
    {"rule": "majority", "votes": 1},
    {"rule": "single", "votes": 3},
    {"predictions": [0, 1], "clean_predictions": [0, 1]},
    {"predictions": [0] * 4, "clean_predictions": [0] * 4},
    {"distance": 0.2, "eps": 0.2},
]


@pytest.mark.parametrize("config", [{}, CONFIG], ids=["alone", "by the header"])
@pytest.mark.parametrize("name", [*VALUES, ""])
def test_columns_refuse_what_a_line_by_itself_refuses_in_its_words(name, config, tmp_path):
    """Each impossible value, with a right checksum, among sound rows of one block."""
    rows = [attacked_record(5, [0, 1, 1], 1, eps=0.03), certified_record(5, 1, label=1, **CERTIFICATE)]
    sound = [record_line(replace(row, index=index)) for row in rows for index in range(4)]
    path, refused = tmp_path / "part-0.jsonl", 0
    for row, fields in product(rows, [{name: value} for value in VALUES[name]] if name else TOGETHER):
        if all(hasattr(row, field) for field in fields.keys() - {"unknown"}):
            known = json.loads(record_line(row))
            del known["crc"]
            line = sealed(json.dumps(known | fields, sort_keys=True))
            path.write_bytes(header_line(Header("f", config)) + b"".join([*sound, line, *sound[:1]]))
            found = [message(read_table, tmp_path), message(parse, path)]
            refused += found[1] != ""
            assert found[0] == found[1], (type(row), fields)
            assert not found[1] or "line 10 is damaged" in found[1]
    assert refused or not config


def message(read, path):
    """Words of the error, empty without one."""
    try:
        read(path)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    "edit",
    [
        lambda line: line.replace(b"}\n", b"} \n"),
        lambda line: line.replace(b'"crc": "', b'"crc": "0'),
        lambda line: line.upper(),
        lambda line: b" " + line,
        lambda line: b"\n",
        lambda line: line.replace(b"\n", b"\r\n"),
        lambda line: sealed(line[:-21].decode() + ', "label": 1}'),
        lambda line: sealed(line[:-21].decode() + ', "label" : 1}'),
        lambda line: sealed(line[:-21].decode() + ', "crc": "00000000"}'),
        lambda line: sealed(line[:-21].decode() + "}, {" + line[1:-21].decode() + "}"),
        lambda line: sealed("[" + line[:-21].decode() + "}]"),
        lambda line: sealed("5}"),
    ],
)
def test_lines_of_another_form_are_found_in_a_block(edit, tmp_path):
    lines = [record_line(clean_record(i)) for i in range(6)]
    path = tmp_path / "part-0.jsonl"
    path.write_bytes(header_line(Header("f", {})) + b"".join([*lines[:3], edit(lines[3]), *lines[4:]]))
    assert message(read_table, tmp_path) == message(parse, path)
    assert "line 5 is damaged" in message(parse, path)


def test_two_lines_that_are_one_object_only_together_are_damage(tmp_path):
    """Joined by a comma they would be a list of two objects."""
    whole = '{"evaluator": "a", "index": 1, "kind": "clean", "label": 1, "predictions": [1]}, {"x": [{"y": 1}'
    rest = '{"z": 1}], "evaluator": "a", "index": 2, "kind": "clean", "label": 1, "predictions": [1]}'
    (tmp_path / "part-0.jsonl").write_bytes(header_line(Header("f", {})) + sealed(whole) + sealed(rest))
    with pytest.raises(ValueError, match="line 2 is damaged"):
        read_table(tmp_path)


def test_a_sound_file_is_not_read_line_by_line(tmp_path, monkeypatch):
    """Names of any letters and colons, costs and images included."""
    rows = [row for seed in range(3) for row in random_rows(seed) if not isinstance(row, GradientCheckRecord)]
    rows = list({row.key: row for row in rows}.values())
    Records(tmp_path, "f", CONFIG | {"evaluators": []}).append(rows)
    monkeypatch.setattr(reading, "later_line", None)
    assert len(read_table(tmp_path)[1]) == len(rows)


def test_lines_of_the_parts_are_not_parsed_again_in_the_merged_file(tmp_path, monkeypatch):
    records = Records(tmp_path, "f")
    records.append([clean_record(i, cost=Cost(seconds=1.0)) for i in range(50)])
    merged = records.merge()
    calls = []
    read = reading.alike_parts
    monkeypatch.setattr(reading, "alike_parts", lambda *block: calls.append(block) or read(*block))
    assert len(read_table(tmp_path)[1]) == 50 and len(calls) == 1
    lines = merged.read_bytes().splitlines(keepends=True)
    merged.write_bytes(b"".join([*lines[:-1], sealed(json.dumps(unsealed(lines[-1][:-1]) | {"label": 2}))]))
    with pytest.raises(ValueError, match="disagree"):
        read_table(tmp_path)
    merged.write_bytes(header_line(Header("other", {})) + b"".join(lines[1:]))
    with pytest.raises(ValueError, match="another configuration"):
        read_table(tmp_path)
    merged.write_bytes(b"".join(lines[:-1]) + lines[-1].replace(b"[1]", b"[2]"))
    with pytest.raises(ValueError, match="line 51 is damaged"):
        read_table(tmp_path)


def alike_rows(n=200):
    """Rows of few patterns, with small, large and negative numbers; names, and seeds, of a third differ in digits."""
    draw = random.Random(0)
    for index in range(n):
        common = {"index": index, "label": index % 4, "cost": Cost(draw.randrange(1000), draw.random(), 2**40)}
        if index % 3 == 0:
            guess = draw.choice([-1, 2])
            yield certified_record(prediction=guess, radius=draw.random() if guess > 0 else 0.0, **common)
        else:
            more = {
                "queries": 2**60 + index if index == 7 else index,
                "dead": draw.choice([1e-5, 1e-6, 0.25]),
                "seed": index % 2 if index % 3 == 2 else 0,
            }
            yield attacked_record(
                evaluator=("pgd-20", "pgd-21", "pgd", "pgd20")[index // 3 % 4] if index % 3 == 2 else "apgd-9",
                curve=[1.0, draw.random()],
                **more,
                **common,
            )


def test_lines_that_differ_in_numbers_alone_are_those_read_one_by_one(tmp_path, monkeypatch):
    rows = sorted(alike_rows(), key=lambda row: row.key)
    Records(tmp_path, "f").append(rows)
    read, parsed = alike_lines.objects, []
    monkeypatch.setattr(alike_lines, "objects", lambda block: parsed.extend(block.splitlines()) or read(block))
    assert in_full(read_table(tmp_path)[1]) == in_full(rows)
    assert 0 < len(parsed) < 0.7 * len(rows)  # exponents, and the pattern of an integer that no float holds
    assert any(b"1152921504606846983" in line for line in parsed)


def test_an_integer_that_no_float_holds_stays_exact(tmp_path):
    """The same in all lines."""
    rows = [attacked_record(index, queries=2**53 + 1) for index in range(20)]
    Records(tmp_path, "f").append(rows)
    assert {row.queries for row in read_table(tmp_path)[1]} == {2**53 + 1}


def test_exponents_that_differ_are_read(tmp_path):
    """The digits before them are the same."""
    rows = [attacked_record(index, dead=(1e-5, 1e-6)[index % 2]) for index in range(20)]
    Records(tmp_path, "f").append(rows)
    assert in_full(read_table(tmp_path)[1]) == in_full(rows)


def test_names_that_differ_in_digits_alone_are_told_apart(tmp_path):
    """The text of one, without its digits, is the other."""
    names = ("pgd-20", "pgd")
    rows = [clean_record(i, evaluator=names[i % 2]) for i in range(40)]
    Records(tmp_path, "f").append(rows)
    assert in_full(read_table(tmp_path)[1]) == in_full(sorted(rows, key=lambda row: row.key))


@pytest.mark.parametrize(("number", "other"), [
    (b'"label": 3', b'"label": 1-2'), (b'"label": 3', b'"label": -'), (b'"label": 3', b'"label": 3.0'),
    (b'"label": 3', b'"label": --3'), (b'"label": 3', b'"label": '), (b'"label": 3', b'"label": 3e0'),
    (b"[1.0, ", b"[1.0.0, "), (b"[1.0, ", b"[, "), (b"[1.0, ", b"[1, "), (b'"pgd-21"', b'"pgd-2"'),
    (b'"pgd-21"', b'"pgd21"'), (b'"seed": 1', b'"seed": -1'),
    (b'"index": 7,', b'"index": 7, "index": 7,'), (b'"index": 7,', b'"index": 7, "indexes": 7,'),
    (b'"peak_bytes": 1099511627776', b'"peak_bytes": 0.5'), (b'"evaluations": ', b'"evaluations": -'),
])  # fmt: skip
def test_what_is_unusual_among_alike_lines_is_as_read_one_by_one(tmp_path, number, other):
    """Sealed anew, as by another program: it is damage, or the same rows."""
    store = Records(tmp_path, "f")
    store.append([row for row in alike_rows() if row.index % 3])
    (part,) = tmp_path.glob("part-*")
    head, *lines = part.read_bytes().splitlines()
    changed = next(n for n, line in enumerate(lines) if number in line)
    body = lines[changed][: -len(', "crc": "01234567"}')].replace(number, other, 1)
    lines[changed] = sealed(f"{body.decode()}}}").rstrip(b"\n")
    part.write_bytes(b"\n".join([head, *lines, b""]))

    def outcome(read):
        try:
            return in_full(sorted(read(), key=lambda row: row.key))
        except ValueError as error:
            return str(error)

    assert outcome(lambda: read_table(tmp_path)[1]) == outcome(lambda: parse(part)[1])


def test_a_running_test_shows_what_is_there(tmp_path):
    """Part files of two ranks, the last row of one of them torn, and no merged file."""
    ranks = [Records(tmp_path, "f", rank=rank) for rank in (0, 1)]
    for rank, records in enumerate(ranks):
        records.append([clean_record(index) for index in range(rank, 20, 2)])
    part = sorted(tmp_path.glob("part-*"))[1]
    part.write_bytes(part.read_bytes()[:-9])
    (summary,) = summarise(read_table(tmp_path)[1])
    assert summary.n == 19


def test_costs_and_floats_are_rounded_as_a_row_rounds_them(tmp_path):
    values = [0.0, 1e-7, 0.1, 123456.789, 0.99999949, 1 / 3, 5e-324, 1.5e8, 2.0**40, 1234567.0, 9.999995e-5]
    random_values = np.random.default_rng(0).lognormal(0, 12, 200).clip(max=1e9)
    values += random_values.tolist()
    rows = [
        {"kind": "clean", "evaluator": "c", "index": i, "label": 1, "predictions": [1], "cost": {"seconds": value}}
        for i, value in enumerate(values)
    ]
    lines = [sealed(json.dumps(row)) for row in rows]
    (tmp_path / "part-0.jsonl").write_bytes(header_line(Header("f", {})) + b"".join(lines))
    found = [row.cost.seconds for row in read_table(tmp_path)[1]]
    assert found == [float(f"{value:.6g}") for value in values]
