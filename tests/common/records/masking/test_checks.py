"""Each masking check passes for a working attack and fails for the fault that it detects."""

import pytest
from scipy.stats import binomtest

from common.records.masking import paired_checks, single_checks
from common.records.masking.check import MaskingCheck
from common.records.masking.checks import masking_checks
from common.records.schema import AttackedRecord, CleanRecord, Role

WORKING = {"zero_gradient": False, "probabilities": False, "repeatable": True, "norm": "Linf", "eps": 0.1}


def rows(clean, attacked, name="attacked", distance=0.1, **values):
    """One record per image from strings of draws: "11" right twice, "10" right once."""
    pairs = zip(clean, attacked, strict=True)
    entries = [
        {"predictions": [int(c) for c in a], "clean_predictions": [int(c) for c in b], "distance": distance}
        for b, a in pairs
    ]
    return [
        AttackedRecord(evaluator=name, index=i, label=1, **{**WORKING, **entry, **values})
        for i, entry in enumerate(entries)
    ]


def named(found, name):
    (check,) = [check for check in found if check.name.endswith(name)]
    return check


def test_a_working_attack_passes_all_checks():
    found = masking_checks(rows(["11"] * 20, ["00"] * 15 + ["11"] * 5))
    assert len(found) == 6
    assert [check.sentence for check in found if not check.passed] == []
    assert all(check.sentence.endswith(".") and check.name.startswith("attacked: ") for check in found)


@pytest.mark.parametrize(
    ("flag", "value", "name"),
    [
        ("zero_gradient", True, "gradient reaches the image"),
        ("probabilities", True, "outputs are logits"),
        ("repeatable", False, "randomness is declared"),
    ],
)
def test_each_sign_fails_its_check_only(flag, value, name):
    found = masking_checks(rows(["1"] * 20, ["0"] * 20, **{flag: value}))
    assert [check.name for check in found if not check.passed] == [f"attacked: {name}"]


def test_five_percent_of_zero_gradients_are_tolerated():
    good, bad = rows(["1"] * 100, ["0"] * 100), rows(["1"] * 100, ["0"] * 100, zero_gradient=True)
    assert single_checks.gradient_reaches_the_image(bad[:5] + good[5:]).passed
    assert not single_checks.gradient_reaches_the_image(bad[:6] + good[6:]).passed
    assert "6.0 %" in single_checks.gradient_reaches_the_image(bad[:6] + good[6:]).sentence


def test_unmoved_images_fail_unless_misclassified_before():
    still = rows(["11"] * 20, ["11"] * 20, distance=0.0005)
    assert not single_checks.attack_moves_images(still).passed
    already_wrong = rows(["01"] * 20, ["01"] * 20, distance=0.0)
    assert single_checks.attack_moves_images(already_wrong).passed
    assert not single_checks.attack_moves_images(still[:2] + rows(["11"] * 20, ["00"] * 20)[2:]).passed
    assert single_checks.attack_moves_images(still[:1] + rows(["11"] * 20, ["00"] * 20)[1:]).passed


def test_an_attack_no_stronger_than_clean_queries_fails():
    """Noise alone makes some draw wrong on half of the images, with and without attack."""
    clean, attacked = ["10", "11"] * 20, ["11", "10"] * 20
    assert not single_checks.attack_beats_clean_queries(rows(clean, attacked)).passed
    assert single_checks.attack_beats_clean_queries(rows(clean, ["00"] * 40)).passed


def test_a_black_box_attack_need_not_beat_clean_queries_beside_a_stronger_white_box_one():
    """Else the number of the defence would be called too high because a weak attack was run beside a strong one."""

    def checked(white_attacked, **values):
        clean = ["10", "11"] * 20
        white = rows(clean, white_attacked, name="PGD", **values)
        black = rows(clean, ["11", "10"] * 20, name="transfer", white_box=False)
        return [c for c in masking_checks(white + black) if c.name == "transfer: attack beats clean queries"]

    assert not checked(["00"] * 40)
    assert [check.passed for check in checked(["11", "10"] * 20)] == [False]  # no stronger than the black-box attack
    assert [check.passed for check in checked(["00"] * 40, eps=0.2)] == [False]  # another budget
    assert [check.passed for check in checked(["00"] * 3 + ["11", "10"] * 18 + ["10"])] == [False]  # too few to tell


def test_too_few_images_are_undecided_and_an_attack_without_success_fails():
    def found(images, broken):
        check = single_checks.attack_beats_clean_queries(
            rows(["1"] * images, ["0"] * broken + ["1"] * (images - broken))
        )
        return check.passed, check.decided

    assert found(3, 0) == found(50, 2) == (True, False)
    assert found(7, 0) == (False, True)


def test_an_attack_without_usable_gradients_fails():
    """More than 5 % of the images spent more than half of their steps without a gradient."""
    seeing, blind = rows(["1"] * 40, ["0"] * 40, dead=0.5), rows(["1"] * 40, ["0"] * 40, dead=0.51)
    assert named(masking_checks(seeing[:38] + blind[38:]), "steps have gradients").passed
    check = named(masking_checks(seeing[:37] + blind[37:]), "steps have gradients")
    assert not check.passed
    assert "7.5 %" in check.sentence
    assert not [
        c for c in masking_checks(rows(["1"] * 9, ["0"] * 9, dead=1.0, white_box=False)) if "have gradients" in c.name
    ]


def part(name, eps=0.1, **attack):
    return {
        "class": "Attacked", "name": name, "draws": 10, "seed": 0, "threat": {"norm": "inf", "eps": eps},
        "attack": {"class": "PGD", "steps": 20, "eot": 4, "step_size": None, **attack},
    }  # fmt: skip


BASE = part("pgd")


@pytest.mark.parametrize(
    ("other", "stronger"),
    [
        (part("eps=0.2", eps=0.2), "eps=0.2"),
        (part("eps=0.2", eps=0.2, step_size=0.02), "eps=0.2"),
        (part("steps=5", steps=5), "pgd"),
        (part("eot=1", eot=1), "pgd"),
        (part("five restarts", restarts=5), None),  # the first has no such setting: nothing to compare
        (part("steps=5", steps=5, eot=1), None),  # differ in two settings
        ({**part("other seed", steps=5), "seed": 1}, None),  # other draws
    ],
)
def test_header_settings_decide_which_attack_is_stronger(other, stronger):
    config = {"evaluators": [BASE, other]}
    names = ["pgd", other["name"]]
    weaker = next(name for name in names if name != stronger)
    right = {stronger: ["0"] * 30 + ["1"] * 10, weaker: ["1"] * 40}
    for survivors, passed in ((right, True), ({stronger: right[weaker], weaker: right[stronger]}, False)):
        seeds = {"pgd": 0, other["name"]: other["seed"]}
        records = [
            r for name in names for r in rows(["1"] * 40, survivors.get(name, ["0"] * 40), name, seed=seeds[name])
        ]
        found = [check for check in masking_checks(records, config) if "not weaker" in check.name]
        assert not [check for check in masking_checks(records) if "not weaker" in check.name]
        if stronger is None:
            assert found == []
            continue
        (check,) = found
        assert check.name == f"{stronger}: not weaker than {weaker}"
        assert check.passed == passed
        assert "25.0 % survive" in check.sentence
        assert check.sentence.endswith("." if passed else "selects the best iterate incorrectly.")


@pytest.mark.parametrize("own", [True, False])
def test_transfer_from_the_defence_itself_is_no_black_box_attack(own):
    classifier = {"class": "x.Network", "weights": "1"}
    source = classifier if own else {**classifier, "weights": "2"}
    config = {
        "classifier": classifier,
        "evaluators": [
            {"name": "pgd", "seed": 0, "attack": {"class": "a.PGD"}},
            {"name": "transfer", "seed": 0, "attack": {"class": "a.Transfer", "source": source}},
        ],
    }
    white, black = rows(["1"] * 40, ["1"] * 40, name="pgd"), rows(["1"] * 40, ["0"] * 40, "transfer", white_box=False)
    failed = [check.name for check in masking_checks([*white, *black], config) if not check.passed]
    assert any("not weaker than transfer" in name for name in failed) == (not own)


def test_trends_pair_common_images_and_need_enough_of_them():
    config = {"evaluators": [BASE, part("steps=5", steps=5), part("steps=2", steps=2)]}
    base = rows(["1"] * 40, ["1"] * 40, name="pgd")
    found = masking_checks([*base, *rows(["1"] * 6, ["0"] * 6, name="steps=5")], config)
    check = named(found, "not weaker than steps=5")
    assert check.passed
    assert not check.decided
    found = masking_checks(
        [*base, *(r for k in (5, 2) for r in rows(["1"] * 9, [str(k % 2)] * 9, name=f"steps={k}"))], config
    )
    trends = {check.name: check.passed for check in found if "not weaker" in check.name}
    assert trends == {  # neighbours only: 20 against 5, 5 against 2
        "pgd: not weaker than steps=5": True,
        "steps=5: not weaker than steps=2": False,
    }


def test_variants_have_no_checks_of_their_own():
    records = rows(["1"] * 40, ["1"] * 40, name="steps=5", distance=0.0, role=Role.VARIANT)
    black = rows(["1"] * 40, ["0"] * 40, name="square", white_box=False)
    assert {check.name.split(":")[0] for check in masking_checks(records + black)} == {"square"}
    grey = rows(["1"] * 40, ["1"] * 40, name="grey", norm="L2", eps=4.0, role=Role.HUGE_BUDGET)
    (check,) = masking_checks(grey)
    assert not check.passed
    assert "huge" in check.name


def test_attack_must_break_the_baseline():
    falls, stands, few = (
        rows(["1"] * n, ["0"] * k + ["1"] * (n - k), name="undefended", role=Role.BASELINE, baseline="undefended")
        for n, k in ((20, 15), (20, 3), (6, 6))
    )
    (good,), (bad,), (unclear,) = masking_checks(falls), masking_checks(stands), masking_checks(few)
    assert (good.passed, bad.passed, unclear.passed, unclear.decided) == (True, False, True, False)
    assert "25.0 % under the attack: it works." in good.sentence


def test_robust_accuracy_above_clean_accuracy_fails():
    assert not single_checks.robust_is_not_above_clean(rows(["0"] * 20, ["1"] * 20)).passed
    assert single_checks.robust_is_not_above_clean(rows(["1"] * 20, ["1"] * 20)).passed


@pytest.mark.parametrize(("lost", "won"), [(6, 0), (7, 0), (10, 1), (10, 2), (9, 2), (0, 0), (0, 9)])
def test_paired_comparison_is_the_exact_sign_test(lost, won):
    clean, attacked = ["1"] * lost + ["0"] * won + ["1"] * 5, ["0"] * lost + ["1"] * won + ["1"] * 5
    significant = lost + won > 0 and binomtest(lost, lost + won, 0.5, alternative="greater").pvalue < 0.01
    check = single_checks.attack_beats_clean_queries(rows(clean, attacked))
    few = lost + won < 7
    assert check.decided == (not few)
    assert check.passed == (significant or few)
    assert ("at least 7" in check.sentence) == few


def test_accuracy_above_chance_at_a_huge_budget_fails():
    def huge(right, norm="Linf", eps=0.6):
        found = rows(["1"] * 40, ["1"] * right + ["0"] * (40 - right), eps=eps, norm=norm, distance=min(0.5, eps))
        return [check for check in masking_checks(found) if "huge" in check.name]

    assert huge(30, eps=0.1) == huge(30, norm="L2") == []
    assert [check.passed for check in huge(40) + huge(5)] == [False, True]


def test_black_box_must_not_beat_white_box():
    white = rows(["1"] * 20, ["1"] * 18 + ["0"] * 2, name="pgd", white_box=True)
    black = rows(["1"] * 20, ["0"] * 18 + ["1"] * 2, name="square", white_box=False)
    check = named(masking_checks(white + black), "pgd: not weaker than square")
    assert not check.passed
    assert "10.0 % the black-box" in check.sentence
    weak = rows(["1"] * 20, ["1"] * 20, name="square", white_box=False)
    assert named(masking_checks(white + weak), "not weaker than square").passed
    other = rows(["1"] * 20, ["0"] * 20, name="square", white_box=False, eps=0.2)
    assert not [check for check in masking_checks(white + other) if "not weaker" in check.name]
    with pytest.raises(ValueError, match="share none"):
        paired_checks.transfer(white[:5], black[5:])


def test_records_without_attacks_have_no_checks():
    assert (
        masking_checks([]) == masking_checks([CleanRecord(evaluator="clean", index=0, label=1, predictions=[1])]) == []
    )
    assert MaskingCheck("a", True, "b").passed
