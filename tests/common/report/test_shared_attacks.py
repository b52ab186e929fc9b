"""Worst attacks are compared over attacks that both runs met, on the same images, and never a run with itself."""

import shutil

import numpy as np
import pytest

from common.records.schema import AttackedRecord
from common.records.worst_case import per_image_minimum, worst_case
from common.report.headline import headline
from common.report.runs import Run, read_runs
from common.report.shared_attacks import shared_worst
from common.report.tables.accuracy import accuracy_table
from common.report.tables.comparisons import SIGNIFICANCE, attack_table, run_table
from tests.common.records.made import attacked_record

WORST = "worst attack, L∞ ≤ 8/255"
KEY = ("Linf", 0.0313725)  # as records round it


def run(name, attacks, n=24, draws=4, seed=0, part=None, **fields):
    """A defence on images of unequal difficulty, under attacks that are equally strong but for luck."""
    random = np.random.default_rng(seed)
    chance = random.beta(1, 1, n)
    rows = [
        attacked_record(i, np.where(random.random(draws) < chance[i], 1, 2).tolist(), evaluator=attack, **fields)
        for attack in attacks
        for i in range(n)
    ]
    return Run(name, name, {"evaluators": part or []}, rows)


def significant(table):
    return [row for row in table.rows if row[1].startswith("worst") and row[-1].strong]


@pytest.mark.parametrize(
    ("ours", "theirs", "shown"),
    [
        ("abcd", "a", False),  # one attack of both: compared under its own name alone
        ("abcd", "xy", False),
        ("abcd", "abxy", True),
        ("abcdef", "ab", True),
    ],
)
def test_two_equal_defences_under_unequal_attacks_differ_no_more_than_chance_allows(ours, theirs, shown):
    """50 reports a case, 200 in all, of which 5 % may be significant: 6 of 50 are exceeded once in 150."""
    found = []
    for seed in range(50):
        pair = [run("a", ours, 16, 3, seed), run("b", theirs, 16, 3, 1000 + seed)]
        table = run_table(pair)
        once = any(note.startswith(f"a and b, {WORST}, average: ") and "counted once" in note for note in table.notes)
        assert (
            any(row[1] == WORST for row in table.rows) or once if shown else WORST not in {row[1] for row in table.rows}
        )
        assert any(note.startswith(f"a and b, {WORST}: ") and " met " in note for note in table.notes)
        found.append(bool(significant(table)))
    assert sum(found) <= 6 and SIGNIFICANCE == 0.05


def test_the_attacks_of_both_are_named_and_the_others_too():
    first, *others = run_table([run("a", "xyz"), run("b", "wxy", seed=1)]).notes
    assert first == f"a and b, {WORST}: over the attacks of both, x and y (a also met z; b also met w)."
    assert others == [  # here the choice per image leaves no less than x alone
        f"a and b, {WORST}, {score}: the worst case of both is that of x, which is counted once."
        for score in ("average", "worst of 4 draws")
    ]
    notes = run_table([run("a", "xy"), run("b", "x", seed=1)]).notes
    assert notes == [f"a and b, {WORST}: not compared, both met x alone (a also met y)."]


def test_an_attack_counts_only_with_the_same_settings_rule_and_images():
    def part(steps):
        return [{"class": "x.Attacked", "name": name, "attack": {"class": "x.PGD", "steps": steps}} for name in "xyz"]

    assert shared_worst([run("a", "xyz", part=part(10)), run("b", "xyz", part=part(100))], KEY).attacks == []
    same = [run("a", "xyz", part=part(10)), run("b", "xyz", part=part(10))]
    assert [one.title for one in shared_worst(same, KEY).attacks] == ["x", "y", "z"]
    majority = run("b", "xyz", rule="majority", votes=3)
    assert shared_worst([run("a", "xyz"), majority], KEY).attacks == []
    short = run("b", "xyz")
    short = Run("b", "b", {}, [row for row in short.records if row.evaluator != "z" or row.index < 5])
    shared = shared_worst([run("a", "xyz"), short], KEY)
    assert [one.title for one in shared.attacks] == ["x", "y"]
    assert {len(one.rows) for one in shared.worst} == {24}


def test_the_worst_case_is_that_of_the_shared_rows_alone():
    a, b = run("a", "xyz"), run("b", "xyw", seed=1)
    shared = shared_worst([a, b], KEY)
    assert list(shared.worst[0].rows) == worst_case([row for row in a.records if row.evaluator in "xy"])


def test_a_run_named_twice_is_read_once(made, tmp_path):
    path = made(n=12).attacked("pgd").write(tmp_path / "run")
    (tmp_path / "link").symlink_to(path)
    assert [one.name for one in read_runs([path, tmp_path / "link", tmp_path / "run" / ".." / "run"])] == ["run"]
    other = made(n=12, seed=1).attacked("pgd").write(tmp_path / "other")
    assert [one.name for one in read_runs([path, other, path])] == ["run", "other"]


def test_a_copy_or_a_part_of_a_run_is_not_compared_with_it(made, tmp_path):
    path = made(n=12).attacked("pgd").write(tmp_path / "run")
    shutil.copytree(path, tmp_path / "copy")
    whole, copy = read_runs([path, tmp_path / "copy"])
    part = Run("part", whole.fingerprint, whole.config, whole.records[:5])
    for second in (copy, part):
        table = run_table([whole, second])
        assert table.rows == [] and "a run is not compared with itself" in table.notes[0]
    assert run_table(read_runs([path, made(n=12, seed=1).attacked("pgd").write(tmp_path / "other")])).rows


def test_an_unfinished_run_is_compared_with_a_note():
    whole, begun = run("whole", "x", n=40), run("begun", "x", n=11, seed=1)
    table = run_table([whole, begun])
    assert [row[3] for row in table.rows if row[1] == "x"] == [11, 11]
    assert "whole has 40 and begun 11 images in x, 11 in common: a run may be unfinished." in table.notes
    assert "Attacked on fewer than 40 images, perhaps unfinished: begun 11." in headline([whole, begun]).sentences
    mixed = Run("mixed", "", {}, [*run("", "a", n=40).records, *run("", "b", n=11).records])
    table = attack_table([mixed])
    assert table.rows[0][2] == "a − b" and "attacks on unequally many images, a 40 and b 11" in table.notes[0]


def test_the_leader_leads_under_the_attacks_that_all_met():
    """Under its own attacks the first looks weaker: it met one that breaks every image."""

    def rows(name, wrong):
        return [attacked_record(i, [1 if i >= wrong else 2] * 2, evaluator=name) for i in range(20)]

    harder = Run("harder", "h", {}, [*rows("pgd", 4), *rows("apgd", 5), *rows("square", 20)])
    easier = Run("easier", "e", {}, [*rows("pgd", 10), *rows("apgd", 9)])
    sentence = next(s for s in headline([easier, harder]).sentences if "highest" in s)
    assert sentence.startswith(
        "harder has the highest robust accuracy (75.0 %, L∞ ≤ 8/255, under apgd and pgd, which all"
    )
    apart = Run("apart", "p", {}, rows("other", 6))
    assert any("Not ranked" in s for s in headline([apart, easier]).sentences)


def test_the_minimum_stands_beside_the_cross_fitted_worst_case():
    """Pure luck: eight attacks that break half of the draws each leave half cross-fitted, and far less at will."""
    luck = run("luck", "abcdefgh", n=200, draws=10)
    fitted, least = worst_case(luck.records), per_image_minimum(luck.records)
    average = [np.mean([np.mean(np.array(row.predictions) == 1) for row in rows]) for rows in (fitted, least)]
    rows = {row.index: [one for one in luck.records if one.index == row.index] for row in least}
    shares = [min(np.mean(np.array(one.predictions) == 1) for one in same) for same in rows.values()]
    assert average[1] == pytest.approx(np.mean(shares)) and average[0] > average[1] + 0.04
    assert all(isinstance(row, AttackedRecord) and row.evaluator == "per-image minimum of 8 attacks" for row in least)
    table = accuracy_table([luck])
    assert [row[1] for row in table.rows[-2:]] == ["worst of 8 attacks", "per-image minimum of 8 attacks"]
    assert "cross-fitted" in table.notes[0]
    sentence = f"luck: the per-image minimum of its attacks leaves {100 * average[1]:.1f} % correct"
    assert any(s.startswith(sentence) for s in headline([luck]).sentences)


def test_unequal_numbers_of_draws_have_a_minimum():
    rows = [attacked_record(0, [1, 1, 2, 2], evaluator="a"), attacked_record(0, [1, 2], evaluator="b")]
    assert per_image_minimum(rows)[0].predictions == [1, 2]
    assert accuracy_table([Run("one draw", "", {}, run("", "ab", draws=1).records)]).notes == []
