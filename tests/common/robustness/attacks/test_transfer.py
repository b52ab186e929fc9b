"""Transfer: the image is the source's own adversarial image, whatever classifier is under test."""

import torch
from torch import nn

from common.noise import Noise
from common.robustness.attacks.pgd import PGD
from common.robustness.attacks.transfer import Transfer
from common.robustness.classifiers import Classifier, NetworkClassifier
from common.robustness.evaluation.attacked import Attacked
from common.robustness.threats.norm_ball import ThreatModel


class Linear(nn.Module):
    """Two classes by the sign of w . (x - 1/2)."""

    def __init__(self, w):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w).view(1, 1, 1, -1))

    def forward(self, x):
        score = ((x - 0.5) * self.w).flatten(1).sum(1)
        return torch.stack((-score, score), dim=1)


class Opaque(Classifier):
    """A classifier without a gradient, so that a white-box attack on it fails."""

    def forward(self, image, noise=None):
        raise AssertionError("a transfer attack called the defence")


def test_adversarial_images_depend_on_the_source_only():
    source = NetworkClassifier(Linear([1.0, -2.0, 0.5]))
    image, label, threat = torch.full((3, 1, 1, 3), 0.5), torch.ones(3, dtype=torch.int64), ThreatModel("inf", 0.1)
    noise = Noise.of(0, torch.arange(3))
    adv = Transfer(source, PGD(steps=10))(Opaque(), image, label, threat, noise)
    optimum = image + torch.tensor([-0.1, 0.1, -0.1])  # against the signs of w
    torch.testing.assert_close(adv, optimum.expand_as(adv))


def test_is_black_box_and_moves_its_source_to_the_device():
    source, defence = NetworkClassifier(Linear([1.0, 1.0])), NetworkClassifier(Linear([1.0, -1.0]))
    evaluator = Attacked(Transfer(source, PGD(steps=5)), ThreatModel("inf", 0.2))
    image, label = torch.tensor([[[[0.7, 0.6]]], [[[0.9, 0.6]]]]), torch.tensor([1, 1])
    records = evaluator(defence, (image, label, torch.tensor([0, 1])))
    assert all(record.white_box is False for record in records)
    # the source lowers both pixels alike; the defence sees their difference, which stays
    assert [record.correct for record in records] == [[True], [True]]
