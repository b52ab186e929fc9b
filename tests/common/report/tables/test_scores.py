"""Scores beside the summaries', computed again from the rows."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import binomtest

from common.numerics.finding import Finding
from common.records.schema import Role
from common.records.store import Records
from common.report.runs import read_runs
from common.report.tables.accuracy import class_table, seed_table
from common.report.tables.controls import comparison_table, control_table, in_loop, resubmitted
from common.report.tables.cost import cost_table
from common.report.tables.gradients import gradients
from common.report.tables.table import as_cell
from tests.common.records.made import attacked_record, rows_of


def right(rows, key="predictions"):
    return np.array([np.array(getattr(row, key)) == row.label for row in rows])


def exact(successes, n):
    found = binomtest(int(successes), n).proportion_ci(0.95, "exact")
    return pytest.approx((successes / n, found.low, found.high), abs=1e-9)


@pytest.fixture(scope="module")
def run(made, tmp_path_factory):
    made = made(n=50).clean().attacked("pgd", steps=5, eot=2).attacked("apgd", resubmissions=3)
    return read_runs([made.write(tmp_path_factory.mktemp("scores") / "run")])[0]


def test_every_score_has_its_matched_controls(run):
    table = control_table([run])
    assert table.columns[-1] == "Worst of M"
    rows = {tuple(row[1:3]): row[3:] for row in table.rows}
    kept = {
        "attacked image": "predictions",
        "clean image": "clean_predictions",
        "random perturbation": "random_predictions",
    }
    for name in ("pgd", "apgd"):
        for asked, key in kept.items():
            correct = right(rows_of(run, name), key)
            queries, average, worst, majority, _ = rows[name, asked]
            assert queries == 10
            assert average[0] == pytest.approx(correct.mean())
            assert worst == exact(correct.all(1).sum(), 50)
            votes = [(getattr(row, key), row.label) for row in rows_of(run, name)]
            plural = [max(sorted(set(draws)), key=draws.count) == label for draws, label in votes]
            assert majority == exact(sum(plural), 50)
    queries, average, worst, majority, _ = rows["pgd", "any point of its loop"]
    assert (queries, average, majority) == ("12", None, None)  # 5 steps and the end, 2 draws each
    assert worst == exact(sum(not row.broken for row in rows_of(run, "pgd")), 50)


def test_resubmissions_are_scored_by_all_ways_to_choose_them(run):
    correct = right(rows_of(run, "apgd"))
    ways = [list(way) for way in combinations(range(10), 3)]
    expected = np.mean([[row[way].all() for way in ways] for row in correct])
    assert resubmitted(rows_of(run, "apgd"), 3)[0] == pytest.approx(expected)
    rows = {tuple(row[1:3]): row[-1] for row in control_table([run]).rows}
    assert rows["apgd", "attacked image"][0] == pytest.approx(expected)
    assert rows["pgd", "attacked image"] is None
    assert resubmitted(rows_of(run, "apgd"), 1)[0] == pytest.approx(correct.mean())
    assert resubmitted(rows_of(run, "apgd"), 10)[0] == pytest.approx(correct.all(1).mean())


def test_an_attack_that_reports_nothing_has_no_loop():
    rows = [attacked_record(i) for i in range(3)]
    assert in_loop(rows) is None


def test_classes_add_up_to_the_whole(run):
    table = class_table(run)
    assert table.columns == ["Class", "Images", "clean", "apgd", "pgd", "worst attack, L∞ ≤ 8/255"]
    labels = sorted({row.label for row in rows_of(run, "pgd")})
    assert [row[0] for row in table.rows] == [str(label) for label in labels]
    for row in table.rows:
        same = [record for record in rows_of(run, "pgd") if str(record.label) == row[0]]
        assert row[1] == len(same)
        assert row[4][0] == pytest.approx(right(same).mean())
    weighted = sum(row[1] * row[4][0] for row in table.rows) / 50
    assert weighted == pytest.approx(right(rows_of(run, "pgd")).mean())


def test_a_class_with_fewer_attacked_images_is_marked(made, tmp_path):
    made = made(n=40).clean(draws=1).attacked("pgd", draws=1)
    label = int(made.label[0])
    made.rows = [row for row in made.rows if row.evaluator == "clean" or row.index in (0, 1)]
    (read,) = read_runs([made.write(tmp_path / "run")])
    (row,) = [row for row in class_table(read).rows if row[0] == str(label)]
    assert row[1] == sum(made.label == label)
    assert as_cell(row[3]).note.endswith("of 1")
    assert any(None in row for row in class_table(read).rows)


def test_without_a_clean_evaluator_the_control_is_the_clean_accuracy(made, tmp_path):
    (read,) = read_runs([made(n=20).attacked("pgd").write(tmp_path / "run")])
    table = class_table(read)
    assert table.columns[2:] == ["clean", "pgd"]
    total = sum(row[1] * row[2][0] for row in table.rows) / 20
    assert total == pytest.approx(right(rows_of(read, "pgd"), "clean_predictions").mean())


def test_seeds_have_a_mean_and_a_spread(made, tmp_path):
    made = made(n=30).clean()
    for seed in range(3):
        made.attacked("pgd", seed=seed)
    (read,) = read_runs([made.write(tmp_path / "run")])
    values = [100 * right(rows_of(read, f"pgd (seed {seed})" if seed else "pgd")).mean() for seed in range(3)]
    (row,) = seed_table([read]).rows
    assert row[:3] == ["run", "pgd", 3]
    expected = [np.mean(values), min(values), max(values), np.std(values, ddof=1)]
    assert [float(entry) for entry in row[3:]] == pytest.approx(expected, abs=0.051)


def test_cost_is_per_image_and_missing_in_a_merged_file(made, tmp_path):
    made = made(n=10).attacked("pgd", steps=5, eot=2)
    made.rows = [replace(row, cost=replace(row.cost, seconds=0.1 * row.index)) for row in made.rows]
    made.verified()
    path = made.write(tmp_path / "run")
    table = cost_table(read_runs([path]))
    assert table.rows[0][1:] == ["pgd", 10, "110", "0.45", "1.50"]  # 11 x 5 x 2 evaluations, mean of 0 .. 0.9 s
    assert table.rows[1][1:] == ["verify", 1, *["not recorded"] * 3]
    merged = Records(path, "0").merge()
    assert cost_table(read_runs([merged])).rows[0][3:] == ["not recorded"] * 3


def test_masking_variants_are_no_results(made, tmp_path):
    made = made(n=30).attacked("pgd").attacked("eps=0.5", 4.0, eps=0.5, limit=10, role=Role.VARIANT)
    made.attacked("undefended", 5.0, limit=10, role=Role.BASELINE, baseline="undefended")
    (read,) = read_runs([made.write(tmp_path / "run")])
    assert [one.title for one in read.results] == ["pgd"]
    assert read.worst_cases == []
    assert [one.title for one in read.worst_by_budget.values()] == ["pgd"]
    rows = {row[1]: row[2:] for row in comparison_table([read]).rows}
    assert rows["eps=0.5"][:3] == ["the defence", "L∞ ≤ 0.5", 10]
    assert rows["undefended"][:3] == ["undefended classifier", "L∞ ≤ 8/255", 10]
    assert rows["eps=0.5"][3][0] == pytest.approx(right(rows_of(read, "eps=0.5")).mean())
    assert [row[1] for row in control_table([read]).rows] == ["pgd"] * 4


def test_diagnostics_beside_the_records_belong_to_the_run(made, tmp_path):
    path = made(n=30).attacked("pgd", steps=20).write(tmp_path / "run")
    good = Finding("full graph", True, 0.0, "Yes.")
    beside = made(n=30, seed=1).verified(good).attacked("steps=5", steps=5, limit=10, role=Role.VARIANT)
    beside.write(path / "diagnostics")
    for place in (path, Records(path, "0", Records.describe(path).config).merge()):
        (read,) = read_runs([place])
        assert [one.title for one in read.results] == ["pgd"]
        assert [one.title for one in read.comparisons] == ["steps=5"]
        assert gradients(read).state == "exact"
        assert read.comparisons[0].part["attack"]["steps"] == 5
        assert "pgd: not weaker than steps=5" in [check.name for check in read.checks]
    assert [run.name for run in read_runs([tmp_path])] == ["run"]
