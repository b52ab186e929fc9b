"""The headline holds the numbers of the rows, the worst attack honestly chosen, and at most five sentences."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from common.numerics.finding import Finding
from common.records.schema import ClaimedRecord, ForecastRecord, GradientCheckRecord
from common.report.headline import HeadlineRow, headline, headline_of_rows, read_headline
from common.report.headline_table import headline_table
from common.report.runs import Run
from tests.common.records.made import attacked_record, certified_record, clean_record
from tests.common.report.pages import CONFIG, attacked, certified, clean, exact, write

PASSED = Finding("gradient", True, 1e-5, "As expected.")
VERIFIED = [GradientCheckRecord(evaluator="verify", index=0, label=1, verified=True, findings=[PASSED])]


def attack(name, draws, n=4, **fields):
    """An attack on ``n`` images of class 1 with the same draws on each: "110" is right, right, wrong."""
    guesses = [1 if draw == "1" else 2 for draw in draws]
    return [attacked_record(i, guesses, evaluator=name, **fields) for i in range(n)]


def triple(score):
    return score.value, score.low, score.high


def test_the_numbers_are_those_of_the_rows(tmp_path):
    rows = attacked(chance=0.5)
    shown = read_headline(write(tmp_path / "run", clean(), rows, certified())).rows
    (row,) = shown
    right = np.array([r.predictions for r in rows]) == 1
    assert triple(row.robust) == pytest.approx(exact(right.mean(1).sum(), len(rows)), abs=1e-9)
    assert triple(row.worst_draw) == pytest.approx(exact(int(right.all(1).sum()), len(rows)), abs=1e-9)
    plain = np.array([r.predictions for r in clean()]) == 1
    assert triple(row.clean) == pytest.approx(exact(plain.mean(1).sum(), len(rows)), abs=1e-9)
    reached = sum(r.prediction == 1 and r.radius >= 0.25 for r in certified())
    assert triple(row.certified) == pytest.approx(exact(reached, len(certified())), abs=1e-9)
    assert (row.name, row.attack, row.threat, row.draws) == ("run", "pgd", "L∞ ≤ 8/255", 5)
    assert row.images == [40] and row.radius == 0.25


def test_the_worst_attack_is_chosen_on_other_draws_than_it_is_scored_on():
    """The least of several noisy attacks is biased: chosen on one half of the draws, scored on the other."""
    rows = [*attack("first", "1010"), *attack("second", "0101")]
    (row,) = headline_of_rows("run", rows).rows
    assert row.attack == "worst of first, second"
    assert row.robust.value == 0.5  # scored on the draws that chose it, 0 would be left
    rows = [*attack("first", "1100"), *attack("second", "1000")]
    assert headline_of_rows("run", rows).rows[0].robust.value == 0.25


def test_attackers_with_the_draws_and_attacks_on_few_images_do_not_replace_the_worst():
    rows = [*attack("pgd", "10"), *attack("known", "00", knows="noise")]
    assert headline_of_rows("run", rows).rows[0].attack == "pgd"
    rows = [*attack("pgd", "11", n=8), *attack("slow", "00", n=2)]
    row = headline_of_rows("run", rows).rows[0]
    assert (row.attack, row.robust.value, row.robust.images) == ("pgd", 1.0, 8)
    rows = [*attack("known", "00", knows="noise")]
    assert headline_of_rows("run", rows).rows[0].attack == "known"


def test_a_table_has_one_budget_where_it_can():
    small, large = {"eps": 4 / 255}, {"eps": 8 / 255}
    both = [*attack("a", "11", **small), *attack("b", "10", **large)]
    runs = [Run("one", "", {}, both), Run("two", "", {}, attack("b", "10", **large))]
    assert [row.threat for row in headline(runs).rows] == ["L∞ ≤ 8/255"] * 2
    other = Run("three", "", {}, attack("l2", "10", norm="L2", eps=0.5))
    assert [row.threat for row in headline([*runs, other]).rows] == ["L∞ ≤ 8/255"] * 2 + ["L2 ≤ 0.5"]


def test_certified_accuracy_is_of_certificates_at_a_radius_that_was_decided():
    rows = [certified_record(i, 1, radius) for i, radius in enumerate((0.1, 0.3, 0.6, 0.9))]
    claims = [certified_record(i, 1, 5.0, kind=ClaimedRecord, evaluator="claim") for i in range(4)]
    forecasts = [
        certified_record(i, 1, 5.0, kind=ForecastRecord, evaluator="forecast", procedure=100) for i in range(4)
    ]
    (row,) = headline_of_rows("run", [*rows, *claims, *forecasts]).rows
    assert (row.certified.value, row.radius, row.certifier) == (0.75, 0.25, "certified")
    assert headline_of_rows("run", rows, radius=0.5).rows[0].certified.value == 0.5
    l2 = [*rows, *attack("pgd", "11", norm="L2", eps=0.75)]
    assert headline_of_rows("run", l2).rows[0].certified.value == 0.25  # at eps
    config = {"evaluators": [{"name": "certified", "smoothing": {"targets": [0.5, 1.0]}}]}
    (row,) = headline([Run("run", "", config, rows)]).rows
    assert (row.radius, row.certified.value) == (0.5, 0.5)
    assert headline([Run("run", "", config, rows)], radius=0.25).rows[0].certified is None
    assert headline_of_rows("run", claims).rows[0].certified is None
    guessed = headline_of_rows("run", forecasts)
    assert guessed.rows[0].certified is None and headline_table(guessed.rows).rows[0][-1].text == "–"


def test_transfer_from_the_defence_itself_is_no_sign_of_masked_gradients():
    rows = [*attack("pgd", "11", n=40), *attack("transfer", "00", n=40, white_box=False)]
    for weights, said in (("1", False), ("2", True)):
        part = {"name": "transfer", "seed": 0, "attack": {"source": {"class": "x.Network", "weights": weights}}}
        config = {"classifier": {"class": "x.Network", "weights": "1"}, "evaluators": [part]}
        sentences = headline([Run("run", "", config, rows)]).sentences
        assert any("black-box attack transfer" in sentence for sentence in sentences) == said


def test_failed_checks_come_first_and_five_sentences_are_the_most(tmp_path):
    wrong = Finding("gradient", False, 0.5, "It points elsewhere.")
    broken = GradientCheckRecord(evaluator="verify", index=0, label=1, verified=False, findings=[wrong])
    runs = [
        Run("good", "", CONFIG, [*attacked(chance=0.5), *attacked("square", 3, 0.4, white_box=False), *certified()]),
        Run("masked", "", CONFIG, attacked(chance=0.9, zero_gradient=True)),
        Run("wrong", "", CONFIG, [*attacked(chance=0.7), broken]),
    ]
    shown = headline(runs)
    assert len(shown.sentences) == 5
    assert [remark.level for remark in shown.remarks[:3]] == ["failed", "failed", "warning"]
    assert shown.sentences[0].startswith("masked: the numbers may be too high, a masking check failed")
    assert "The loss gradient is zero" in shown.sentences[0]
    assert shown.sentences[1].startswith(
        "wrong: the gradient check failed, so the robust accuracy is only an upper bound"
    )
    assert "white-box attack pgd leaves" in shown.sentences[2] and "black-box attack square" in shown.sentences[2]
    many = headline([Run(f"m{i}", "", CONFIG, attacked(chance=0.9, zero_gradient=True)) for i in range(4)])
    assert [remark.level for remark in many.remarks[:3]] == ["failed", "failed", "warning"]
    assert "m1, m2, m3" in many.sentences[1]


def test_a_stronger_white_box_attack_and_a_verified_gradient_bring_no_warning():
    rows = [*attacked(chance=0.3), *attacked("square", 3, 0.8, white_box=False), *VERIFIED]
    shown = headline([Run("run", "", CONFIG, rows)])
    assert {remark.level for remark in shown.remarks} == {"note"}
    without = headline([Run("run", "", CONFIG, [row for row in rows if row not in VERIFIED])])
    assert [r.sentence for r in without.remarks if r.level == "warning"] == ["The gradients were not verified: run."]


def test_the_leader_is_sound_and_its_difference_is_paired():
    def run(name, draws, n=40):
        return Run(name, "", CONFIG, [*attack("pgd", draws, n), *VERIFIED])

    worst = run("weak", "1000")
    sentence = next(s for s in headline([worst, run("strong", "1110")]).sentences if "highest" in s)
    assert sentence.startswith("strong has the highest robust accuracy (75.0 %, L∞ ≤ 8/255)")
    assert "to weak is +50.0 [" in sentence and "on 40 images" in sentence and "not significant" not in sentence
    alike = headline([run("a", "1100"), run("b", "1100")]).sentences
    assert any("not significant" in sentence for sentence in alike)
    assert not any("highest" in sentence for sentence in headline([worst]).sentences)


def test_few_images_say_how_many_are_needed():
    rows = [clean_record(i, [1 if i % 2 else 2]) for i in range(64)]
    sentence = headline_of_rows("run", rows).sentences[0]
    low, high = exact(32, 64)[1:]
    assert sentence.startswith(f"64 images leave an interval of ±{50 * (high - low):.0f} points (run)")
    assert "about 1,100 would leave ±3" in sentence  # 0.25 (1.96 / 0.03)^2 = 1067
    many = [clean_record(i, [1 if i % 2 else 2]) for i in range(1100)]
    assert not headline_of_rows("run", many).sentences


def test_several_queries_lower_the_accuracy_and_a_single_draw_is_mentioned():
    found = headline([Run("run", "", CONFIG, [*attack("pgd", "10", 200), *VERIFIED])]).sentences
    assert any("with 2 queries per image leaves 0.0 % correct, one with a single query 50.0 %" in s for s in found)
    found = headline([Run("run", "", CONFIG, [*attack("pgd", "1", 200), *VERIFIED])])
    assert any("scored on one draw per image: run" in s for s in found.sentences)
    assert found.rows[0].worst_draw is None


def test_the_worst_draw_of_a_deterministic_defence_is_its_accuracy():
    """Scored once, whatever the number of draws that its test asks for, and shown beside randomised defences."""
    asked = {"class": "x.Attacked", "name": "pgd", "draws": 10}
    config = {"classifier": {"class": "x.NetworkClassifier"}, "evaluators": [asked]}
    rows = [attacked_record(i, [1 if i < 30 else 2], evaluator="pgd") for i in range(40)]
    runs = [Run("plain", "", config, rows), Run("run", "", CONFIG, attack("pgd", "1" * 10))]
    deterministic, other = headline(runs).rows
    assert triple(deterministic.worst_draw) == triple(deterministic.robust) == pytest.approx(exact(30, 40), abs=1e-9)
    assert deterministic.draws == other.draws == 10


@pytest.mark.parametrize("width", [80, 100])
def test_no_number_is_wrapped_in_80_columns(tmp_path, width):
    name = "a-rather-long-name-of-a-defence"
    rows = [*attack("a-long-name-of-an-attack", "1111111111", 1000), *attack("another-long-name", "1" * 10, 1000)]
    runs = [Run(name, "", CONFIG, [*rows, *certified()]), Run("b[red]", "", CONFIG, [*attacked(), *certified()])]
    shown = headline(runs)
    text = shown.render(width)
    assert max(map(len, text.splitlines())) <= width
    for row in shown.rows:
        for score in (row.clean, row.robust, row.worst_draw, row.certified):
            assert f"{100 * score.low:.1f}–{100 * score.high:.1f}" in text
    assert "40–1000" in text and "b[red]" in text
    assert str(shown) == shown.render(80)


def test_columns_without_numbers_are_left_out():
    assert len(headline_table(headline_of_rows("run", certified()).rows).heads) == 3
    assert "–" in headline([]).render() or headline([]).rows == []
    empty = headline_of_rows("run", [])
    assert empty.rows == [HeadlineRow("run")] and "run" in empty.render()


def test_no_report_imports_torch(tmp_path):
    write(tmp_path / "run", clean(), attacked(), certified())
    code = (
        "import sys; from common.commands.report import run; "
        f"run([{str(tmp_path / 'run')!r}, '--out', {str(tmp_path / 'out')!r}]); "
        "sys.exit(str([m for m in ('torch', 'lightning', 'scipy.stats', 'matplotlib.pyplot') if m in sys.modules]))"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.stderr.strip().splitlines()[-1] == "[]"
