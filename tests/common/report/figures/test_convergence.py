"""Curves and series hold what records and header say, and join only what differs in one setting."""

import numpy as np
import pytest

from common.records.intervals import interval
from common.records.schema import Role
from common.report.figures.convergence import convergence, iterations, mean_curve
from common.report.figures.drawing import DARK, LIGHT
from common.report.figures.series import series, series_plot
from common.report.runs import read_runs
from tests.common.records.made import attacked_record, rows_of


def share(run, *names, indices=None):
    rows = [row for name in names for row in rows_of(run, name) if indices is None or row.index in indices]
    return np.mean([[guess == row.label for guess in row.predictions] for row in rows])


def test_a_curve_is_the_mean_over_images():
    curves = [[1.0, 0.5, 0.25], [0.5], [], [0.0, 0.5, 0.5], None]
    rows = [attacked_record(i, curve=curve) for i, curve in enumerate(curves)]
    assert mean_curve(rows) == pytest.approx([0.5, 0.5, 1.25 / 3])
    assert mean_curve([]) == []


def test_iterations_end_in_the_accuracy_on_fresh_draws(made, tmp_path):
    run = made(n=30)
    for seed in range(2):
        run.attacked("pgd", steps=7, seed=seed)
    run = read_runs([run.attacked("apgd", 2.2, steps=12).write(tmp_path / "run")])[0]
    (axes,) = iterations(run, [run], LIGHT).axes
    lines = [line for line in axes.lines if len(line.get_xdata()) > 2]
    assert [list(line.get_xdata()) for line in lines] == [list(range(1, 14)), list(range(1, 9))]
    apgd = np.mean([row.curve for row in rows_of(run, "apgd")], 0)
    both = np.mean([row.curve for title in ("pgd", "pgd (seed 1)") for row in rows_of(run, title)], 0)
    assert lines[0].get_ydata() == pytest.approx(100 * apgd)
    assert lines[1].get_ydata() == pytest.approx(100 * both)
    whiskers, points = ([line.get_ydata() for line in axes.lines if len(line.get_xdata()) == k] for k in (2, 1))
    for names, whisker, point in zip((["apgd"], ["pgd", "pgd (seed 1)"]), whiskers, points, strict=True):
        value = share(run, *names)
        assert point == pytest.approx([100 * value])
        assert whisker == pytest.approx([100 * end for end in interval(30 * value, 30)])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["apgd", "pgd"]


def test_a_series_joins_attacks_that_differ_in_one_setting_alone(made, tmp_path):
    run = made(n=40)
    for eot, harm in ((1, 1.2), (4, 1.6), (16, 1.9)):
        run.attacked(f"pgd{eot}", harm, steps=20, eot=eot)
    run.attacked("longer", steps=50, eot=16).attacked("dlr", steps=20, eot=8, loss="dlr")
    run.attacked("voted", steps=20, eot=8, rule="majority", votes=5)
    (read,) = read_runs([run.write(tmp_path / "run")])
    (eot,), (steps,) = series([read], "eot"), series([read], "steps")
    assert (eot.name, eot.n) == ("run: PGD, 20 steps, L∞ ≤ 8/255", 40)
    assert [value for value, _ in eot.points] == [1, 4, 16]
    for (_, triple), name in zip(eot.points, ("pgd1", "pgd4", "pgd16"), strict=True):
        value = share(read, name)
        assert triple == pytest.approx((value, *interval(40 * value, 40)))
    assert (steps.name, [value for value, _ in steps.points]) == ("run: PGD, EOT 16, L∞ ≤ 8/255", [20, 50])


def test_a_series_runs_over_several_runs_seeds_and_their_common_images(made, tmp_path):
    runs = [made(n=30, seed=7).attacked("pgd", eot=1).attacked("pgd", eot=1, seed=1)]
    runs += [made(n=20, seed=8).attacked("pgd", eot=8), made("BPDA", n=30, seed=9).attacked("pgd", eot=16)]
    read = read_runs([run.write(tmp_path / f"run{k}") for k, run in enumerate(runs)])
    (found,) = series(read, "eot")  # another gradient is another defence to attack
    assert (found.name, found.n) == ("run0 and run1: PGD, L∞ ≤ 8/255", 20)
    assert [value for value, _ in found.points] == [1, 8]
    assert found.points[0][1][0] == pytest.approx(share(read[0], "pgd", "pgd (seed 1)", indices=range(20)))
    assert series(read, "steps") == []


def test_settings_of_an_attack_within_an_attack_count_and_those_of_the_defence_do_not(made, tmp_path):
    run = made("Surrogate", n=10)  # this gradient has a setting "steps" as well
    for steps in (5, 10):
        run.attacked(f"through{steps}", steps=steps)
        attack = run.parts[-1]["attack"]
        gradient = {"class": "x.Surrogate", "steps": 3}
        run.parts[-1]["attack"] = {"class": "x.Through", "gradient": gradient, "attack": attack}
    (read,) = read_runs([run.write(tmp_path / "run")])
    (found,) = series([read], "steps")
    assert found.name == "run: Through(PGD), L∞ ≤ 8/255"
    assert [value for value, _ in found.points] == [5, 10]


def test_masking_variants_fill_in(made, tmp_path):
    run = made(n=40).attacked("pgd", steps=20, eot=4)
    variant = {"role": Role.VARIANT}
    run.attacked("eot=1", steps=20, eot=1, limit=16, **variant).attacked("steps=5", steps=5, eot=4, limit=16, **variant)
    run.attacked("eps=0.5", 4.0, steps=20, eot=4, eps=0.5, limit=8, **variant)
    for part in run.parts:
        part["attack"]["step_size"] = part["threat"]["eps"] / 8  # grows along with the budget
    baseline = {"role": Role.BASELINE, "baseline": "undefended"}  # tells nothing of the defence
    run.attacked("undefended", 5.0, steps=2, eot=4, limit=16, **baseline)
    run.parts[-1]["attack"]["step_size"] = run.parts[0]["attack"]["step_size"]
    (read,) = read_runs([run.write(tmp_path / "run")])
    found = {knob: series([read], knob) for knob in ("eot", "steps", "eps")}
    points = {knob: [value for value, _ in one.points] for knob, (one,) in found.items()}
    assert points == {"eot": [1, 4], "steps": [5, 20], "eps": pytest.approx([8 / 255, 0.5], abs=1e-6)}
    assert {knob: one.n for knob, (one,) in found.items()} == {"eot": 16, "steps": 16, "eps": 8}
    run.attacked("pgd1", steps=20, eot=1)
    run.parts[-1]["attack"]["step_size"] = run.parts[0]["attack"]["step_size"]
    (one,) = series(read_runs([run.write(tmp_path / "more")]), "eot")
    assert one.n == 40  # what varies by itself needs no help


def test_ambiguous_and_unknown_settings_make_no_series(made, tmp_path):
    run = made(n=10).attacked("a", eot=1).attacked("b", eot=2)
    run.parts[0]["attack"]["parts"] = [{"class": "x.APGD", "eot": 3}]
    run.parts[1]["attack"]["parts"] = [{"class": "x.APGD", "eot": 4}]
    assert series(read_runs([run.write(tmp_path / "run")]), "eot") == []
    run.parts = []
    assert series(read_runs([run.write(tmp_path / "other")]), "eot") == []


def test_the_figure_draws_the_series(made, tmp_path):
    run = made(n=25)
    for eot in (1, 4, 16):
        run.attacked(f"pgd{eot}", eot=eot)
    (found,) = series(read_runs([run.write(tmp_path / "run")]), "eot")
    (axes,) = series_plot([found], "eot", DARK).axes
    (line,) = axes.lines
    assert line.get_xdata() == pytest.approx([1, 4, 16])
    assert line.get_ydata() == pytest.approx([100 * triple[0] for _, triple in found.points])
    ends = [segment[:, 1] for segment in axes.collections[0].get_segments()]
    assert ends == [pytest.approx([100 * low, 100 * high]) for _, (_, low, high) in found.points]


def test_captions_name_the_loop_of_the_attack(made, tmp_path):
    runs = [
        made(n=10).attacked("a", eot=1).attacked("b", eot=2).write(tmp_path / "run"),
        made().clean().write(tmp_path / "c"),
    ]
    found = {drawn.name: drawn.caption for drawn in convergence(read_runs(runs))}
    assert set(found) == {"iterations-1", "against-eot"}
    assert "the loop of each attack" in found["iterations-1"]
    assert "10 common images" in found["against-eot"]
