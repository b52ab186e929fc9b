"""Counts of the published AutoAttack (its authors' package) on a small network of digits, and that network.

100 steps and one restart, in the given number of seeds; ``broken`` of that many times 320 correctly classified images.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from common.noise import Noise
from common.robustness.attacks.apgd import APGD
from common.robustness.attacks.attack import Attack
from common.robustness.attacks.fab import FAB
from common.robustness.classifiers import Classifier, NetworkClassifier
from common.robustness.threats.norm_ball import ThreatModel

IMAGES = 320


@dataclass(frozen=True)
class Recorded:
    """A recorded count of broken images, and our attack with the same settings."""

    attack: Attack
    threat: ThreatModel
    seeds: int
    broken: int


RECORDED = {
    "APGD-CE in L1, from 3 eps": Recorded(APGD(large_eps=True, early_stop=True), ThreatModel(1, 1.5), 4, 860),
    "APGD-CE in L-inf": Recorded(APGD(early_stop=True), ThreatModel("inf", 0.2), 2, 281),
    "APGD-CE in L2": Recorded(APGD(early_stop=True), ThreatModel(2, 0.9), 2, 495),
    "FAB-T in L-inf": Recorded(FAB(early_stop=True), ThreatModel("inf", 0.2), 1, 147),
}
STANDARD_L1_LEFT = 64  # of the first 320 test images, 305 of them classified correctly, in one seed


def digits_robust() -> tuple[Classifier, Tensor, Tensor]:
    """The network with its test images (547,1,8,8) and their labels, in the order of the records."""
    layers = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU()]
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10))
    weights = np.load(Path(__file__).with_name("digits_robust.npz"))
    network.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    data = load_digits()
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(0))[1250:]
    image, label = torch.tensor(data.images, dtype=torch.float32)[order, None] / 16, torch.tensor(data.target)[order]
    return NetworkClassifier(network).freeze(), image, label


def broken(attack: Attack, threat: ThreatModel, seed: int) -> int:
    """Number of the 320 images that the attack breaks."""
    classifier, image, label = digits_robust()
    chosen = (classifier(image).argmax(1) == label).nonzero().flatten()[:IMAGES]
    image, label = image[chosen], label[chosen]
    adv = attack(classifier, image, label, threat, Noise.of(seed, torch.arange(IMAGES)))
    assert bool(threat.check(image, adv).all())
    return int((classifier(adv).argmax(1) != label).sum())
