"""Attacks on fewer images than others, as an interrupted run leaves them, are named beside the number without them."""

import pytest

from common.report.headline import headline
from common.report.runs import Run
from tests.common.records.made import attacked_record


def attack(name, wrong, images, **fields):
    return [attacked_record(i, [2 if i < wrong else 1], evaluator=name, **fields) for i in images]


def warnings(*rows, config=None):
    run = Run("run", "", config or {}, [row for group in rows for row in group])
    found = [one for one in headline([run]).remarks if "does not count" in one.sentence or "yet by" in one.sentence]
    assert all(one.level == "warning" for one in found)
    return [one.sentence for one in found]


def test_a_strong_attack_on_fewer_images_is_named_with_both_numbers_on_its_images():
    (sentence,) = warnings(attack("weak", 0, range(96)), attack("strong", 60, range(64)))
    assert sentence == (
        "run: strong does not count, as it has 64 of 96 images. It leaves 6.2 % of them correct, weak 100.0 %."
    )
    (sentence,) = warnings(attack("weak", 10, range(96)), attack("late", 40, range(20, 40)))
    assert "late does not count, as it has 20 of 96 images. It leaves 0.0 % of them correct, weak 100.0 %" in sentence


def test_of_several_the_strongest_is_named_and_the_others_are_counted():
    rows = attack("a", 0, range(20)), attack("b", 0, range(20)), attack("c", 9, range(10)), attack("d", 2, range(10))
    (sentence,) = warnings(*rows)
    assert "c does not count, as it has 10 of 20 images" in sentence and "worst of a, b 100.0 %" in sentence
    assert sentence.endswith(" 1 more attacks are left out.")


def test_each_budget_has_its_own_sentence():
    rows = [
        attack(name, wrong, images, norm=norm, eps=1.0)
        for norm in ("L2", "L1")
        for name, wrong, images in ((f"weak{norm}", 0, range(9)), (f"strong{norm}", 9, range(8)))
    ]
    assert [sentence.split()[1] for sentence in warnings(*rows)] == ["strongL1", "strongL2"]


@pytest.mark.parametrize("fields", [{"knows": "noise"}, {"norm": "L2"}, {"eps": 0.5}])
def test_attacks_of_another_budget_or_knowledge_are_not_compared(fields):
    assert not warnings(attack("weak", 0, range(9)), attack("strong", 8, range(8), **fields))


def test_equal_numbers_of_images_leave_nothing_out():
    assert not warnings(attack("weak", 0, range(9)), attack("strong", 8, range(9)))
    assert not warnings(attack("alone", 2, range(9)))


def test_an_attack_without_a_record_is_named():
    described = [{"class": "x.Attacked", "name": name, "attack": {"class": "x.PGD"}} for name in ("weak", "strong")]
    described += [{"class": "x.Clean", "name": "clean"}, {**described[1], "name": "other", "role": "variant"}]
    config = {"evaluators": described}
    (sentence,) = warnings(attack("weak", 0, range(9)), config=config)
    assert sentence == "run: no image was attacked yet by strong, which may leave fewer correct."
    assert not warnings(attack("weak", 0, range(9)), attack("strong", 0, range(9)), config=config)
    assert not warnings([], config=config)
