"""Runs and attacks against each other: the tables hold what the rows of the common images say."""

import csv
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import binomtest

from common.records.paired import sign_flip
from common.records.store import Records
from common.report.build import build
from common.report.runs import read_runs
from common.report.tables.comparisons import attack_table, run_table
from tests.common.records.made import certified_record, rows_of


def entries(table):
    return {tuple(row[:3]): row[3:] for row in table.rows}


def right(run, name, indices):
    by_index = {row.index: row for row in rows_of(run, name)}
    return np.array([np.array(by_index[i].predictions) == by_index[i].label for i in indices])


def printed(p):
    """A p value as shown: two decimals, or "< 0.0001"."""
    return float(p.removeprefix("< "))


@pytest.fixture(scope="module")
def two(made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    exact = made(n=60).clean().attacked("pgd", 2.0).attacked("apgd", 2.3)
    weak = made("BPDA", n=60, seed=1).clean().attacked("pgd", 1.2).attacked("apgd", 1.4)
    weak.rows = [row for row in weak.rows if row.index < 50]
    return [exact.write(folder / "exact"), weak.write(folder / "bpda")]


def test_runs_are_compared_on_their_common_images(two):
    runs = read_runs(two)
    rows = entries(run_table(runs))
    pair = "exact − bpda"
    assert {key[1:] for key in rows} == {
        ("clean", "average"),
        *(
            (name, score)
            for name in ("apgd", "pgd", "worst attack, L∞ ≤ 8/255")
            for score in ("average", "worst of 10 draws")
        ),
    }
    for name in ("clean", "pgd", "apgd"):
        first, second = (right(run, name, range(50)) for run in runs)
        n, a, b, gain, p, _ = rows[pair, name, "average"]
        assert n == 50
        assert (a, b) == (f"{100 * first.mean():.1f}", f"{100 * second.mean():.1f}")
        assert float(gain.text.replace("−", "-")) == pytest.approx(100 * (first.mean() - second.mean()), abs=0.05)
        assert printed(p) == pytest.approx(sign_flip((first.sum(1) - second.sum(1)).tolist()), abs=5e-3)
    first, second = (right(run, "pgd", range(50)).all(1) for run in runs)
    won, lost = int((first & ~second).sum()), int((second & ~first).sum())
    p = rows[pair, "pgd", "worst of 10 draws"][4]
    assert printed(p) == pytest.approx(binomtest(won, won + lost).pvalue, abs=5e-3)


def test_an_attack_named_like_a_worst_case_is_compared_as_an_attack(made, tmp_path):
    name = "worst attack, L∞ ≤ 8/255"
    pair = [
        made(n=20, seed=k).attacked(name, eot=2 + k).attacked("a").attacked("b").write(tmp_path / f"r{k}")
        for k in (0, 1)
    ]
    table = run_table(read_runs(pair))
    compared = [row[1] for row in table.rows if row[2] == "average"]
    assert compared == ["a", "b", name, name]  # the attack, and the worst case of those with the same settings
    assert any(f"score differently in {name}" in note for note in table.notes)
    assert any(f"{name}: over the attacks of both, a and b (r0 also met {name}" in note for note in table.notes)


def test_a_worst_case_that_is_one_attack_alone_counts_once(made, tmp_path):
    pair = []
    for seed in (0, 1):
        run = made(n=30, seed=seed).attacked("a", 1.5).attacked("b", 1.5)
        run.rows = [replace(row, predictions=[row.label] * 10) if row.evaluator == "b" else row for row in run.rows]
        pair.append(run.write(tmp_path / f"r{seed}"))
    table = run_table(read_runs(pair))
    assert [tuple(row[1:3]) for row in table.rows] == [
        (name, score) for name in "ab" for score in ("average", "worst of 10 draws")
    ]
    assert sum("the worst case of both is that of a, which is counted once" in note for note in table.notes) == 2
    (first, second) = (printed(row[7]) for row in table.rows[:2])
    assert printed(table.rows[0][8].text) == pytest.approx(min(1, (4 if first <= second else 3) * first), abs=0.02)


def test_p_values_are_corrected_for_all_of_the_table(two):
    rows = list(entries(run_table(read_runs(two))).values())
    raw, corrected = ([float(row[k] if k == 4 else row[k].text) for row in rows if "<" not in row[4]] for k in (4, 5))
    assert all(c >= p for p, c in zip(raw, corrected, strict=True))
    largest = max(range(len(raw)), key=raw.__getitem__)
    assert corrected[largest] >= raw[largest]
    assert all(row[3].strong == row[5].strong == (row[5].text < "0.05" or "<" in row[5].text) for row in rows)


def test_attacks_of_a_run_are_compared_with_the_strongest(two):
    runs = read_runs(two)
    rows = entries(attack_table(runs))
    assert set(rows) == {(name, "L∞ ≤ 8/255", "apgd − pgd") for name in ("exact", "bpda")}
    n, a, b, gain, *_ = rows["exact", "L∞ ≤ 8/255", "apgd − pgd"]
    first, second = (right(runs[0], name, range(60)) for name in ("apgd", "pgd"))
    assert (n, a, b) == (60, f"{100 * first.mean():.1f}", f"{100 * second.mean():.1f}")
    assert first.mean() < second.mean()
    assert gain.text.startswith("−")
    low, high = gain.note.replace("−", "-").strip("[]").split(", ")
    assert float(low) < 100 * (first.mean() - second.mean()) < float(high)


def test_the_strongest_comes_first_whatever_its_name(made, tmp_path):
    (run,) = read_runs([made(n=50).attacked("a", 1.0).attacked("z", 2.4).write(tmp_path / "run")])
    ((_, _, pair, _, a, b, gain, *_),) = attack_table([run]).rows
    first, second = (right(run, name, range(50)).mean() for name in "za")
    assert (pair, a, b) == ("z − a", f"{100 * first:.1f}", f"{100 * second:.1f}")
    low, high = (float(end) for end in gain.note.replace("−", "-").strip("[]").split(", "))
    assert low < 100 * (first - second) < high < 0


def test_all_pairs_of_attacks_count_in_the_correction(made, tmp_path):
    run = made(n=40).attacked("a", 1.9).attacked("b", 1.9).attacked("c", 1.95).write(tmp_path / "run")
    (read,) = read_runs([run])
    p = {
        pair: sign_flip((right(read, pair[0], range(40)).sum(1) - right(read, pair[1], range(40)).sum(1)).tolist())
        for pair in combinations("abc", 2)
    }
    smallest = min(p, key=p.get)
    table = entries(attack_table([read]))
    assert len(table) == 2  # those with the strongest alone
    for (_, _, attacks), (*_, raw, corrected) in table.items():
        first, second = attacks.split(" − ")
        if {first, second} == set(smallest):
            assert printed(corrected.text) == pytest.approx(min(1, 3 * p[smallest]), abs=6e-3)
        assert printed(raw) == pytest.approx(p.get((first, second), p.get((second, first))), abs=6e-3)


def test_seeds_of_one_evaluator_count_together(made, tmp_path):
    runs = []
    for seed, harm in ((0, 2.0), (1, 1.5)):
        run = made(n=30, seed=seed)
        for number in range(3):
            run.attacked("pgd", harm, seed=number)
        runs.append(run.write(tmp_path / f"run{seed}"))
    read = read_runs(runs)
    rows = entries(run_table(read))
    assert ("run0 − run1", "pgd", "average") in rows
    assert ("run0 − run1", "pgd", "worst of 10 draws") not in rows
    every = [np.hstack([right(run, f"pgd (seed {k})" if k else "pgd", range(30)) for k in range(3)]) for run in read]
    n, a, b, *_ = rows["run0 − run1", "pgd", "average"]
    assert (n, a, b) == (30, f"{100 * every[0].mean():.1f}", f"{100 * every[1].mean():.1f}")
    assert attack_table(read).rows == []


def test_different_settings_are_noted(made, tmp_path):
    runs = [made(n=20, seed=s).attacked("pgd", steps=s + 10).write(tmp_path / f"run{s}") for s in range(2)]
    table = run_table(read_runs(runs))
    assert table.notes == ["run0 and run1 attack or score differently in pgd: attack.steps 10 and 11."]
    assert {row[1] for row in table.rows} == {"pgd"}  # its worst case would be the same once more


def test_incomparable_runs_are_noted(made, tmp_path):
    first, second = made(n=20).clean().attacked("pgd"), made(n=20, seed=1).clean().attacked("pgd")
    smaller = {"eps": 4 / 255, "distance": 4 / 255}
    second.rows = [
        replace(r, label=r.label if r.index else r.label + 1, **(smaller if r.evaluator == "pgd" else {}))
        for r in second.rows
    ]
    second.parts[-1]["threat"]["eps"] = 4 / 255
    table = run_table(read_runs([first.write(tmp_path / "a"), second.write(tmp_path / "b")]))
    assert table.rows == []
    assert table.notes == [
        "a and b, clean: not compared, 1 of 20 common indices have different labels, so these are different data.",
        "a and b, pgd: not compared, the budgets differ (L∞ ≤ 8/255 and L∞ ≤ 4/255).",
    ]


def test_certificates_are_compared_at_every_radius(tmp_path):
    random, runs, radii = np.random.default_rng(0), [], []
    for name, scale in (("a", 0.3), ("b", 0.6)):
        radii.append(random.exponential(scale, 50))
        rows = [certified_record(i, 1, float(r)) for i, r in enumerate(radii[-1])]
        records = Records(tmp_path / name, name)
        records.append(rows)
        runs.append(tmp_path / name)
    rows = entries(run_table(read_runs(runs)))
    reached = [(radii[0] >= 0.5), (radii[1] >= 0.5)]
    won, lost = int((reached[0] & ~reached[1]).sum()), int((reached[1] & ~reached[0]).sum())
    n, _, _, gain, p, _ = rows["a − b", "certified", "certified at 0.5"]
    assert n == 50
    assert float(gain.text.replace("−", "-")) == pytest.approx(100 * (won - lost) / 50, abs=0.05)
    assert printed(p) == pytest.approx(binomtest(won, won + lost).pvalue, abs=5e-3)


def test_the_spreadsheets_compare_as_well(two, tmp_path):
    page = build(two, tmp_path)
    with page.with_name("compared.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["Defences"] for row in rows} == {"exact − bpda"}
    assert rows[0]["First − second, 95 %"].startswith("[")
    assert page.with_name("attacks-compared.csv").exists()
