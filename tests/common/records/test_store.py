"""Records survive kills, keep runs apart and are summarised with intervals of the stated coverage."""

import json
import random
import subprocess
import sys
import zlib
from itertools import pairwise, product
from math import comb
from pathlib import Path

import pytest
from scipy.stats import binomtest

from common.records import rows as row_format
from common.records.intervals import interval
from common.records.rounding import rounded_down
from common.records.rows import Header
from common.records.schema import Cost, GradientCheckRecord, Source
from common.records.store import Records
from common.records.summary import summarise
from common.records.worst_case import worst_case
from tests.common.records.made import attacked_record, certified_record, clean_record

row = clean_record
certified = certified_record


def the_part(directory):
    (part,) = directory.glob("part-*.jsonl")
    return part


# A record


def test_a_record_is_the_same_before_and_after_the_file(tmp_path):
    record = attacked_record(3, distance=0.123456789, curve=[1.0000000001, 0.5], images={"clean": "x"}, broken=True)
    assert record.distance == 0.123457
    assert record.curve == [1.0, 0.5]
    records = Records(tmp_path, "f")
    records.append([record])
    assert records.all() == [record] == Records.read(tmp_path)


def test_cost_takes_no_part_in_equality(tmp_path):
    first, second = (row(0, cost=Cost(seconds=s)) for s in (1.0, 2.0))
    assert first == second
    records = Records(tmp_path, "f")
    records.append([first])
    assert records.all()[0].cost == Cost(seconds=1.0)
    assert b"seconds" not in records.merge().read_bytes()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1: 2}, object(), b"x"])
def test_only_plain_finite_values_are_kept(value):
    with pytest.raises(ValueError, match=r"a record's distance must be finite float; got"):
        attacked_record(distance=value)
    with pytest.raises(ValueError, match=r"a record's curve must be list\[finite float\] or None; got"):
        attacked_record(curve=[0.5, value])
    with pytest.raises(ValueError, match=r"a record's predictions must be list\[int\]; got"):
        row(predictions=[1, value])


@pytest.mark.parametrize(("evaluator", "index", "label"), [("", 0, 1), ("clean", 0.0, 1), ("clean", 0, True)])
def test_keys_are_checked(evaluator, index, label):
    with pytest.raises(ValueError, match="must be"):
        row(index, label=label, evaluator=evaluator)


# Append, resume, merge


def test_done_is_per_evaluator_and_counts_earlier_runs(tmp_path):
    first = Records(tmp_path, "f")
    first.append([row(0), row(1), row(0, evaluator="attacked"), row(7, seed=1)])
    again = Records(tmp_path, "f")
    again.append([row(5)])
    assert again.done(Source("clean")) == {0, 1, 5}
    assert again.done(Source("attacked")) == {0}
    assert again.done(Source("certified")) == set()
    assert again.done(Source("clean", seed=1)) == {7}
    assert len(list(tmp_path.glob("part-*.jsonl"))) == 2


KILLED = """
import os, signal, sys
from common.records.schema import CleanRecord
from common.records.store import Records
records = Records(sys.argv[1], "f")
for i in range(10):
    records.append([CleanRecord(evaluator="clean", index=i, label=1, predictions=[i])])
    if i == 4:
        records._file.write(b'{"evaluator": "clean", "ind')
        records._file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_run_keeps_its_rows_and_is_resumed(tmp_path):
    process = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=Path(__file__).parents[3], check=False)
    assert process.returncode == -9
    assert the_part(tmp_path).read_bytes().endswith(b'"ind')
    resumed = Records(tmp_path, "f", rank=1)
    assert resumed.done(Source("clean")) == {0, 1, 2, 3, 4}
    resumed.append([row(i, [i]) for i in range(5, 10)])
    whole = Records(tmp_path / "whole", "f")
    whole.append([row(i, [i]) for i in range(10)])
    assert resumed.merge().read_bytes() == whole.merge().read_bytes()


@pytest.mark.parametrize("kept", [0, 1, 20])
def test_a_kill_while_the_header_is_written_leaves_an_empty_part(tmp_path, kept):
    Records(tmp_path, "f")
    part = the_part(tmp_path)
    part.write_bytes(part.read_bytes()[:kept])
    assert Records(tmp_path, "another").all() == []


def test_every_cut_of_a_part_is_read_up_to_its_last_whole_line(tmp_path):
    records = Records(tmp_path, "f")
    records.append([row(i) for i in range(3)])
    whole = the_part(tmp_path).read_bytes()
    ends = [i for i, byte in enumerate(whole) if byte == ord("\n")]
    for cut in range(len(whole)):
        the_part(tmp_path).write_bytes(whole[:cut])
        complete = sum(cut >= end for end in ends[1:])  # a row is whole without its newline
        assert len(records.all()) == complete


def test_damage_before_the_last_line_is_an_error_with_file_and_line(tmp_path):
    records = Records(tmp_path, "f")
    records.append([row(i) for i in range(3)])
    part = the_part(tmp_path)
    lines = part.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2][:10] + b"\n"
    part.write_bytes(b"".join(lines))
    with pytest.raises(ValueError, match=rf"{part.name}, line 3 is damaged"):
        Records(tmp_path, "f")


def test_a_cut_merged_file_is_an_error(tmp_path):
    records = Records(tmp_path, "f")
    records.append([row(i) for i in range(3)])
    merged = records.merge()
    merged.write_bytes(merged.read_bytes()[:-5])
    with pytest.raises(ValueError, match=r"records\.jsonl, line 4 is damaged"):
        Records.read(merged)


def test_a_header_of_another_format_is_not_a_torn_one(tmp_path):
    (tmp_path / "part-0.jsonl").write_text('{"format": "something else"}\n')
    with pytest.raises(ValueError, match=r"line 1 is damaged .*format is not"):
        Records(tmp_path, "f")


def test_two_ranks_write_side_by_side(tmp_path):
    ranks = [Records(tmp_path, "f", rank=rank) for rank in range(2)]
    for i in range(7):
        ranks[i % 2].append([row(i)])
    assert [record.index for record in ranks[0].all()] == list(range(7))
    assert ranks[0].done(Source("clean")) == {0, 2, 4, 6}
    one = Records(tmp_path / "one", "f")
    one.append([row(i) for i in reversed(range(7))])
    assert one.merge().read_bytes() == ranks[1].merge().read_bytes()


def test_merged_file_stands_alone_and_beside_the_parts(tmp_path):
    records = Records(tmp_path, "f", {"eps": "8/255"})
    records.append([row(1), row(0), row(0, evaluator="attacked")])
    merged = records.merge()
    both = Records.read(tmp_path)
    the_part(tmp_path).unlink()
    assert both == Records.read(tmp_path) == Records.read(merged)
    assert [(record.evaluator, record.index) for record in both] == [("attacked", 0), ("clean", 0), ("clean", 1)]
    assert Records.describe(merged) == Header("f", {"eps": "8/255"})
    assert Records(tmp_path, "f").done(Source("clean")) == {0, 1}
    assert not list(tmp_path.glob(".*"))


def test_close_removes_a_part_without_rows(tmp_path):
    Records(tmp_path, "f").close()
    assert not list(tmp_path.iterdir())
    records = Records(tmp_path, "f")
    records.append([row(0)])
    records.close()
    assert len(list(tmp_path.iterdir())) == 1


# Duplicates


def test_agreeing_duplicates_are_one(tmp_path):
    for distance, image in ((0.1, "a"), (0.100001, "b")):
        Records(tmp_path, "f").append([attacked_record(0, distance=distance, images={"clean": image})])
    (record,) = Records.read(tmp_path)
    assert record.distance in (0.1, 0.100001)


@pytest.mark.parametrize(
    "other",
    [
        attacked_record(0, [2], distance=0.1, clean_predictions=[1]),
        attacked_record(0, [1, 1], distance=0.1),
        attacked_record(0, label=2, distance=0.1, clean_predictions=[1]),
        attacked_record(0, distance=0.2),
        attacked_record(0, distance=1),
        attacked_record(0, distance=0.1, queries=3),
        row(0, evaluator="pgd"),
    ],
)
def test_disagreeing_duplicates_are_an_error(tmp_path, other):
    for record in (attacked_record(0, distance=0.1), other):
        Records(tmp_path, "f").append([record])
    with pytest.raises(ValueError, match="two records of 'pgd', image 0, disagree"):
        Records.read(tmp_path)


# Refusals


def test_rows_of_another_configuration_are_refused_with_what_changed(tmp_path):
    old = {"attack": {"eps": 0.1, "steps": 20}, "draws": [1, 2]}
    Records(tmp_path, "f", old).append([row(0)])
    with pytest.raises(ValueError, match="holds records of another configuration") as refusal:
        Records(tmp_path, "g", {"attack": {"eps": 0.2, "steps": 20}, "draws": [1, 3]})
    message = str(refusal.value)
    assert "attack.eps: 0.1 -> 0.2" in message
    assert "draws.1: 2 -> 3" in message
    assert "steps" not in message
    assert "another directory" in message
    assert "delete" in message
    with pytest.raises(ValueError, match="nothing in the configuration itself"):
        Records(tmp_path, "g", old)


def test_a_run_without_rows_binds_no_fingerprint(tmp_path):
    Records(tmp_path, "f", {"eps": 8})
    Records(tmp_path, "g", {"eps": 0.03}).append([row(0)])
    assert Records.describe(tmp_path).fingerprint == "g"


def test_mixed_parts_are_refused_on_reading(tmp_path):
    Records(tmp_path / "a", "f").append([row(0)])
    Records(tmp_path / "b", "g").append([row(1)])
    the_part(tmp_path / "b").rename(tmp_path / "a" / "part-x.jsonl")
    with pytest.raises(ValueError, match="another configuration"):
        Records.read(tmp_path / "a")


def test_unwritable_paths_are_found_on_opening(tmp_path):
    file = tmp_path / "file"
    file.write_text("precious")
    with pytest.raises(ValueError, match="is a file"):
        Records(file, "f")
    with pytest.raises(ValueError, match=r"cannot write records to .* Make it writable"):
        Records(file / "below", "f")
    with pytest.raises(ValueError, match="cannot write records"):
        Records("/proc/records", "f")
    assert file.read_text() == "precious"


def test_reading_nothing_is_an_error_and_an_empty_run_is_not(tmp_path):
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(ValueError, match="no records in"):
            Records.read(path)
    Records(tmp_path, "f")
    assert Records.read(tmp_path) == []
    assert summarise([]) == []


def test_lines_do_not_depend_on_the_order_of_keys():
    first = attacked_record(images={"clean": "a", "adversarial": "b"})
    second = attacked_record(images={"adversarial": "b", "clean": "a"})
    assert row_format.record_line(first) == row_format.record_line(second)
    text = '{"evaluator": "clean", "index": 2, "kind": "clean", "label": 1, "predictions": [3]}'
    seal = f', "crc": "{zlib.crc32(text.encode()):08x}"}}\n'
    assert row_format.record_line(row(2, [3])).decode() == text[:-1] + seal


@pytest.mark.parametrize("line", [{"kind": "odd"}, {}, {"kind": "clean", "predictions": [1], "extra": 1}])
def test_unknown_kinds_and_keys_are_damage(tmp_path, line):
    Records(tmp_path, "f").append([row(0)])
    part = the_part(tmp_path)
    line = row_format.sealed(json.dumps({"evaluator": "clean", "index": 1, "label": 1, **line}))
    part.write_bytes(part.read_bytes() + line + row_format.record_line(row(2)))
    with pytest.raises(ValueError, match="line 3 is damaged"):
        Records.read(tmp_path)


# Summaries


@pytest.mark.parametrize(("k", "n"), [(0, 5), (1, 5), (3, 7), (7, 7), (250, 512), (512, 512)])
def test_interval_is_clopper_pearson_for_counts(k, n):
    expected = binomtest(k, n).proportion_ci(0.95, "exact")
    assert interval(k, n) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_interval_is_monotone_between_counts():
    ends = [interval(k / 4, 10) for k in range(41)]
    for low, high in pairwise(ends):
        assert low[0] < high[0] or low[0] == high[0] == 0
        assert low[1] < high[1] or low[1] == high[1] == 1


@pytest.mark.parametrize("n", [6, 15])
def test_interval_of_an_average_over_two_draws_covers_what_it_states(n):
    """Every outcome of n images whose mean over two draws is 0, 1/2 or 1, enumerated: coverage is at least 95 %."""
    intervals = {half: interval(half / 2, n) for half in range(2 * n + 1)}
    for wrong, mixed in product([0.0, 0.02, 0.1, 0.3, 0.5, 0.8], repeat=2):
        right = 1 - wrong - mixed
        if right < 0:
            continue
        truth, coverage = right + mixed / 2, 0.0
        for ones in range(n + 1):
            for halves in range(n - ones + 1):
                zeros = n - ones - halves
                low, high = intervals[2 * ones + halves]
                ways = comb(n, ones) * comb(n - ones, halves)
                if low <= truth <= high:
                    coverage += ways * right**ones * mixed**halves * wrong**zeros
        assert coverage >= 0.95 - 1e-12


@pytest.mark.parametrize(("k", "n"), [(-1, 5), (6, 5), (0, 0)])
def test_interval_refuses_impossible_counts(k, n):
    with pytest.raises(ValueError, match="0 <= successes <= n"):
        interval(k, n)


def test_summary_of_one_draw_is_one_exact_number():
    (summary,) = summarise([row(i, [1 if i < 3 else 0]) for i in range(4)])
    low, high = binomtest(3, 4).proportion_ci(0.95, "exact")
    assert (summary.evaluator, summary.n, set(summary.metrics)) == ("clean", 4, {"Avg"})
    assert summary.metrics["Avg"] == pytest.approx((0.75, low, high))


def test_summary_of_three_draws_by_hand():
    guesses = [[1, 1, 1], [1, 1, 0], [0, 0, 1], [2, 0, 1], [1, 2, 2]]
    clean = [[1, 1, 1]] * 4 + [[0, 1, 1]]
    pairs = enumerate(zip(guesses, clean, strict=True))
    rows = [attacked_record(i, g, clean_predictions=c) for i, (g, c) in pairs]
    (summary,) = summarise(rows)
    values = {name: value for name, (value, _, _) in summary.metrics.items()}
    assert values == pytest.approx(
        {"Avg": 8 / 15, "first draw": 3 / 5, "Wor@3": 1 / 5, "MV@3": 2 / 5}
        | {"clean Avg": 14 / 15, "clean Wor@3": 4 / 5, "clean MV@3": 1.0}
    )
    exact = binomtest(1, 5).proportion_ci(0.95, "exact")
    assert summary.metrics["Wor@3"][1:] == pytest.approx((exact.low, exact.high))


def test_a_tied_vote_goes_to_the_lowest_class():
    (summary,) = summarise([row(0, [2, 1], label=1), row(1, [1, 2], label=1)])
    assert summary.metrics["MV@2"][0] == 1.0


def test_summary_of_certificates_by_hand():
    rows = [certified(0, 1, 0.5), certified(1, 1, 1.3, samples=200), certified(2, -1, 0.0), certified(3, 2, 0.9)]
    (summary,) = summarise(rows)
    values = {name: value for name, (value, _, _) in summary.metrics.items()}
    radii = {"certified@0": 0.5, "certified@0.25": 0.5, "certified@0.5": 0.5, "certified@0.75": 0.25}
    assert values == {**radii, "certified@1": 0.25, "certified@1.25": 0.25, "abstained": 0.25, "samples": 125.0}
    assert summary.metrics["samples"][1:] == (100, 200)


def test_evaluators_are_summarised_apart_and_unequal_draws_refused():
    assert [s.evaluator for s in summarise([row(0), row(0, evaluator="attacked"), certified(0, 1, 1.0)])] == [
        "attacked", "certified", "clean",
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"equally many draws.*\[1, 2\]"):
        summarise([row(0), row(1, [1, 1])])
    with pytest.raises(ValueError, match="neither predictions nor certificates"):
        summarise([GradientCheckRecord(evaluator="odd", index=0, label=1, verified=True, findings=[])])


def test_the_worst_of_two_attacks_is_chosen_on_other_draws_than_it_is_scored_on():
    """Draws that are pure luck must not add up to a stronger attack; a truly stronger one must win."""

    def attacked(evaluator, index, right):
        return attacked_record(index, [0 if r else 1 for r in right], 0, evaluator, eps=0.1)

    strong = [attacked("a", 0, [True] * 4), attacked("b", 0, [False] * 4)]
    (row,) = worst_case(strong)
    assert row.evaluator == "worst of a, b" and row.predictions == [1] * 4
    # "a" fails on even draws, "b" on odd ones: chosen on the even half, "a" is scored on the odd half and right there
    # all draws are right, which is more than either attack leaves: then one attack for all images is the worst case
    lucky = [attacked("a", 0, [False, True] * 2), attacked("b", 0, [True, False] * 2)]
    assert worst_case(lucky)[0].predictions == [1, 0] * 2
    single = [attacked("a", 0, [True]), attacked("b", 0, [False])]
    assert worst_case(single)[0].predictions == [1]
    assert worst_case(strong[:1]) == []
    assert worst_case([strong[0], attacked("b", 1, [True] * 4)]) == []  # an image that one attack has not seen


def test_the_worst_case_is_scored_on_draws_that_did_not_choose():
    """Two images for which one attack is right throughout make the choice per image better than one attack for all."""
    right = {
        "a": [[False, True] * 2, [False] * 4, [True] * 4],  # "a" fails on even draws of the first image
        "b": [[True, False] * 2, [True] * 4, [False] * 4],
    }
    rows = [
        attacked_record(index, [0 if r else 1 for r in draws], 0, name, eps=0.1)
        for name, images in right.items()
        for index, draws in enumerate(images)
    ]
    assert [row.predictions for row in worst_case(rows)] == [[0] * 4, [1] * 4, [1] * 4]


@pytest.mark.parametrize("draws", [1, 2, 3, 10])
def test_the_worst_case_never_lies_above_its_attacks(draws):
    """200 images, a weak and a strong attack with 80 % and 30 % right draws: luck chosen on few draws costs nothing."""
    generator = random.Random(draws)

    def attacked(evaluator, index, share, **values):
        guesses = [0 if generator.random() < share else 1 for _ in range(draws)]
        return attacked_record(index, guesses, 0, evaluator, eps=0.1, **values)

    def average(rows):
        return sum(guess == 0 for row in rows for guess in row.predictions) / draws / len(rows)

    weak = [attacked("a weak", i, 0.8) for i in range(200)]
    strong = [attacked("b strong", i, 0.3) for i in range(200)]
    known = [attacked("c knows", i, 0.1, knows="noise") for i in range(200)]
    few = [attacked("d few", i, 0.0) for i in range(50)]
    worst = worst_case(weak + strong + known + few)
    assert {row.evaluator for row in worst} == {"worst of a weak, b strong"}
    assert len(worst) == 200
    assert average(worst) <= average(strong)


def test_stored_bounds_are_rounded_down():
    """Six digits, rounded down; a number that has no more stays as it is."""
    for value in (0.25, 0.3, 1.0, 0.0, 1e-9, 0.123456, 123456.0):
        assert rounded_down(value) == value
    assert rounded_down(0.2519999) == 0.251999 and rounded_down(64 / 255) == 0.25098
    generator = random.Random(0)
    for value in (generator.random() for _ in range(1000)):
        stored = rounded_down(value)
        assert value * (1 - 1e-5) < stored <= value
        assert certified(0, 0, stored).radius == stored
