"""Signs of gradient masking at single images, and the checks that they fail."""

import pytest
import torch
from torch import nn

from common.noise import Noise
from common.records.masking.checks import masking_checks
from common.robustness.attacks.pgd import PGD
from common.robustness.classifiers import Classifier, NetworkClassifier
from common.robustness.evaluation.attacked import Attacked
from common.robustness.masking.signs import masking_signs
from common.robustness.threats.norm_ball import ThreatModel


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
def test_masking_signs_of_each_fault(fault, expected):
    image, label = Noise.of(0, torch.arange(4)).uniform(0, (1, 4, 4)), torch.tensor([0, 1, 0, 1])
    noise, classifier = Noise.of(1, torch.arange(4)), Faulty(fault)
    logits = classifier(image, noise).detach()
    with torch.no_grad():
        found = masking_signs(classifier, image, label, noise, logits)
    assert [tuple(flags.values()) for flags in found] == [expected] * 4
    assert list(found[0]) == ["zero_gradient", "probabilities", "repeatable"]


def test_saturated_classifier_fails_from_evaluator_to_sentence():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    index = torch.arange(32)
    image = Noise.of(0, index).uniform(0, (1, 4, 4))
    label = network(image).argmax(1)
    masked = nn.Sequential(network, nn.Hardtanh(-1e-7, 1e-7))
    attack = Attacked(PGD(steps=3), ThreatModel("inf", 0.49))
    found = masking_checks(attack(NetworkClassifier(masked), (image, label, index)))
    (check,) = [check for check in found if check.name.endswith("gradient reaches the image")]
    assert not check.passed
    found = masking_checks(attack(NetworkClassifier(network), (image, label, index)))
    assert [check.sentence for check in found if not check.passed] == []
