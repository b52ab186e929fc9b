"""Each check passes on an honest attack and fails on the fault that it is there to find."""

import pytest
import torch
from scipy.stats import binomtest
from torch import nn

from common.noise import Noise
from common.robustness import checks
from common.robustness.attacks.pgd import PGD
from common.robustness.checks import Check, examine, probe
from common.robustness.classifiers import Classifier, NetworkClassifier
from common.robustness.evaluators import Attacked
from common.robustness.records import Record
from common.robustness.threat import ThreatModel

HONEST = {"zero_gradient": False, "probabilities": False, "repeatable": True, "norm": "Linf", "eps": 0.1}


def rows(clean, attacked, name="attacked", distance=0.1, **values):
    """One record per image from strings of draws: "11" right twice, "10" right once."""
    pairs = zip(clean, attacked, strict=True)
    entries = [
        {"predictions": [int(c) for c in a], "clean_predictions": [int(c) for c in b], "distance": distance}
        for b, a in pairs
    ]
    return [Record(name, i, 1, {**HONEST, **entry, **values}) for i, entry in enumerate(entries)]


def named(found, name):
    (check,) = [check for check in found if check.name.endswith(name)]
    return check


def test_an_honest_attack_passes_everything():
    found = examine(rows(["11"] * 20, ["00"] * 15 + ["11"] * 5))
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
def test_flags_fail_their_check_alone(flag, value, name):
    found = examine(rows(["1"] * 20, ["0"] * 20, **{flag: value}))
    assert [check.name for check in found if not check.passed] == [f"attacked: {name}"]


def test_five_percent_of_zero_gradients_are_tolerated():
    good, bad = rows(["1"] * 100, ["0"] * 100), rows(["1"] * 100, ["0"] * 100, zero_gradient=True)
    assert checks.gradient_reaches_the_image(bad[:5] + good[5:]).passed
    assert not checks.gradient_reaches_the_image(bad[:6] + good[6:]).passed
    assert "6.0 %" in checks.gradient_reaches_the_image(bad[:6] + good[6:]).sentence


def test_an_attack_that_gives_up_is_found_and_misclassified_images_do_not_count():
    still = rows(["11"] * 20, ["11"] * 20, distance=0.0005)
    assert not checks.attack_moves_images(still).passed
    already_wrong = rows(["01"] * 20, ["01"] * 20, distance=0.0)
    assert checks.attack_moves_images(already_wrong).passed
    assert not checks.attack_moves_images(still[:2] + rows(["11"] * 20, ["00"] * 20)[2:]).passed
    assert checks.attack_moves_images(still[:1] + rows(["11"] * 20, ["00"] * 20)[1:]).passed


def test_an_attack_that_only_asks_again_is_found():
    """Noise alone makes some draw wrong on half the images, under attack and without."""
    clean, attacked = ["10", "11"] * 20, ["11", "10"] * 20
    assert not checks.attack_beats_asking_again(rows(clean, attacked)).passed
    assert checks.attack_beats_asking_again(rows(clean, ["00"] * 40)).passed


def test_robustness_above_clean_accuracy_is_found():
    assert not checks.robust_is_not_above_clean(rows(["0"] * 20, ["1"] * 20)).passed
    assert checks.robust_is_not_above_clean(rows(["1"] * 20, ["1"] * 20)).passed


@pytest.mark.parametrize(("lost", "won"), [(6, 0), (7, 0), (10, 1), (10, 2), (9, 2), (0, 0), (0, 9)])
def test_paired_comparison_is_the_exact_sign_test(lost, won):
    clean, attacked = ["1"] * lost + ["0"] * won + ["1"] * 5, ["0"] * lost + ["1"] * won + ["1"] * 5
    significant = lost + won > 0 and binomtest(lost, lost + won, 0.5, alternative="greater").pvalue < 0.01
    assert checks.attack_beats_asking_again(rows(clean, attacked)).passed == significant


def test_a_huge_budget_must_leave_no_more_than_chance():
    def huge(right, norm="Linf", eps=0.6):
        found = rows(["1"] * 40, ["1"] * right + ["0"] * (40 - right), eps=eps, norm=norm, distance=0.5)
        return [check for check in examine(found) if "huge" in check.name]

    assert huge(30, eps=0.1) == huge(30, norm="L2") == []
    assert [check.passed for check in huge(40) + huge(5)] == [False, True]


def test_black_box_must_not_beat_white_box():
    white = rows(["1"] * 20, ["1"] * 18 + ["0"] * 2, name="pgd", white_box=True)
    black = rows(["1"] * 20, ["0"] * 18 + ["1"] * 2, name="square", white_box=False)
    check = named(examine(white + black), "pgd: not weaker than square")
    assert not check.passed
    assert "10.0 % the black-box" in check.sentence
    weak = rows(["1"] * 20, ["1"] * 20, name="square", white_box=False)
    assert named(examine(white + weak), "not weaker than square").passed
    other = rows(["1"] * 20, ["0"] * 20, name="square", white_box=False, eps=0.2)
    assert not [check for check in examine(white + other) if "not weaker" in check.name]
    with pytest.raises(ValueError, match="share none"):
        checks.transfer(white[:5], black[5:])


def test_nothing_to_examine():
    assert examine([]) == examine([Record("clean", 0, 1, {"predictions": [1]})]) == []
    assert Check("a", True, "b").passed


# What is seen from outside


class Faulty(Classifier):
    randomised = True

    def __init__(self, fault=None):
        super().__init__()
        self.fault, self.calls = fault, 0

    def forward(self, image, noise=None):
        self.calls += 1
        score = (image + 0.1 * noise.normal(0, image.shape[1:])).flatten(1).sum(1)
        logits = torch.stack([score, 0.3 * score], 1)
        if self.fault == "rounds":
            return logits.round()
        if self.fault == "detaches":
            return logits.detach()
        if self.fault == "softmax":
            return logits.softmax(1)
        if self.fault == "other noise":
            return logits + self.calls
        return logits


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (None, (False, False, True)),
        ("rounds", (True, False, True)),
        ("detaches", (True, False, True)),
        ("softmax", (False, True, True)),
        ("other noise", (False, False, False)),
    ],
)
def test_probe_sees_the_fault(fault, expected):
    image, label = Noise.of(0, torch.arange(4)).uniform(0, (1, 4, 4)), torch.tensor([0, 1, 0, 1])
    noise, classifier = Noise.of(1, torch.arange(4)), Faulty(fault)
    logits = classifier(image, noise).detach()
    with torch.no_grad():
        found = probe(classifier, image, label, noise, logits)
    assert [tuple(flags.values()) for flags in found] == [expected] * 4
    assert list(found[0]) == ["zero_gradient", "probabilities", "repeatable"]


def test_a_saturated_classifier_is_caught_from_the_evaluator_to_the_sentence():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    index = torch.arange(32)
    image = Noise.of(0, index).uniform(0, (1, 4, 4))
    label = network(image).argmax(1)
    masked = nn.Sequential(network, nn.Hardtanh(-1e-7, 1e-7))
    attack = Attacked(PGD(steps=3), ThreatModel("inf", 0.49))
    found = examine(attack(NetworkClassifier(masked), (image, label, index)))
    assert not named(found, "gradient reaches the image").passed
    found = examine(attack(NetworkClassifier(network), (image, label, index)))
    assert [check.sentence for check in found if not check.passed] == []
