"""FAB step by step on a linear model, where every iterate lies on the line through the image and its projection."""

import math

import pytest
import torch
from torch import nn

from common.noise import Noise
from common.robustness.attacks.fab import FAB
from common.robustness.classifiers import Classifier
from common.robustness.threats.norm_ball import ThreatModel


class Linear(Classifier):
    """Two classes; records the margin of class 1 at each call, over that of the first."""

    def __init__(self):
        super().__init__()
        weight = torch.randn(12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        self.weight, self.margins = nn.Parameter(weight), []

    def forward(self, image, noise=None):
        margin = (image - 0.5).flatten(1) @ self.weight - 0.1
        self.margins.append(margin[0].item())
        return torch.stack((torch.zeros_like(margin), margin), 1)


def places(steps):
    """Iterates as shares of the way from the image (0) to the boundary (1): each step's start and arrival."""
    x, found = 0.0, [0.0]
    for _ in range(steps):
        bias = min(abs(1 - x) / (abs(1 - x) + 1), 0.1)
        arrived = (1 - bias) * (x + 1.05 * (1 - x)) + bias * 1.05
        found += [x, arrived]
        x = 0.9 * arrived if arrived > 1 else arrived
    return found


@pytest.mark.parametrize("norm", [math.inf, 2, 1])
def test_the_first_steps_are_those_of_the_formula(norm):
    """Of the margin m on the way to the boundary, the share 1 - m / m_0 is the place on that way."""
    classifier, image = Linear(), torch.full((1, 3, 2, 2), 0.5, dtype=torch.float64)
    label, threat = torch.zeros(1, dtype=torch.int64), ThreatModel(norm, 0.5)
    result = FAB(steps=3).search(classifier, image, label, threat, Noise.of(0, torch.tensor([0])))
    found = [1 - margin / classifier.margins[0] for margin in classifier.margins[:7]]
    assert found == pytest.approx(places(3), abs=1e-9)
    nearest = min(place for place in places(3) if place > 1)
    classifier(result.adv)
    assert 1 - classifier.margins[-1] / classifier.margins[0] == pytest.approx(nearest, abs=1e-6)


def test_the_expected_places_are_what_the_docstring_says():
    assert places(2) == pytest.approx([0, 0, 1.05, 0.945, 1.0027500 + 0.0521327 * (1.05 - 1.00275)], abs=1e-6)
