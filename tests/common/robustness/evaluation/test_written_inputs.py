"""Parts that write into what they are handed: their numbers are those of the parts that do not."""

import math

import pytest
import torch
from torch import nn

from agdm.purifier import AGDM
from common.engine.engine import Engine
from common.noise import Noise
from common.robustness import (
    PGD,
    Attacked,
    Certified,
    Certifier,
    Classifier,
    Clean,
    NetworkClassifier,
    Perceptual,
    Purified,
    Smoothing,
    Square,
    ThreatModel,
)
from common.robustness.certification.certificate import Certificate
from diffpure.purifier import DiffPure
from ndc.classifier import NoisedDiffusionClassifier
from tests.defences import denoiser

SIDE, BALL = 4, ThreatModel("inf", 0.1)
IMAGE = torch.rand(20, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
LABEL, INDEX = torch.arange(20) % 3, torch.arange(20) + 5


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 16), nn.ReLU(), nn.Linear(16, 3)).eval()


def in_place(x):
    return x.mul_(0.9).add_(0.05)


def through_numpy(x):
    """No autograd, no version: what comparing versions would miss."""
    x.detach().numpy()[:] *= 0.9
    x.detach().numpy()[:] += 0.05
    return x


def plainly(x):
    return x * 0.9 + 0.05


class Own(Classifier):
    def __init__(self, scaled):
        super().__init__()
        self.network, self.scaled = network(), scaled

    def forward(self, image, noise=None):
        if noise is not None:
            noise.index.add_(0 if self.scaled is plainly else 1)
        return self.network(self.scaled(image))


class Scaling(nn.Module):
    randomised = False

    def __init__(self, scaled):
        super().__init__()
        self.scaled = scaled

    def forward(self, image, noise=None):
        return self.scaled(image)

    def diffuse(self, image, noise=None):
        return self.scaled(image)


class Metric(nn.Module):
    def __init__(self, scaled):
        super().__init__()
        self.scaled = scaled

    def forward(self, image, adv):
        return (self.scaled(adv) - self.scaled(image)).flatten(1).abs().amax(1) / 0.9


class Greedy:
    """An attack that writes into everything: images, labels, noise and its own budget."""

    white_box = False
    __name__ = "greedy"

    def __call__(self, classifier, image, label, threat, noise):
        adv = (image + threat.eps).clamp(0, 1)
        image.zero_()
        label.zero_()
        noise.index.zero_()
        threat.eps = 1.0
        return adv


class Greedier(Greedy):
    def __call__(self, *arguments):
        super().__call__(*arguments)
        return torch.ones_like(arguments[1])


class OwnCertifier(Certifier):
    sigma, num_classes, labelled = 0.1, 3, True

    def __init__(self, writes):
        self.writes = writes

    def check(self, classifier, image, noise):
        if self.writes:
            image.zero_()

    def certify(self, classifier, image, noise, label):
        found = [Certificate(int(y), float(x.mean()), 0.9, 10, 9) for x, y in zip(image, label, strict=True)]
        if self.writes:
            image.zero_(), label.zero_(), noise.draw.add_(1)
        return found


def rows(defence, evaluators, size=20):
    """Rows of all evaluators on the same tensors, in batches of ``size``, and the tensors afterwards."""
    batch, found = (IMAGE.clone(), LABEL.clone(), INDEX.clone()), []
    for start in range(0, len(IMAGE), size):
        part = tuple(tensor[start : start + size] for tensor in batch)
        for evaluator in evaluators:
            found += evaluator(defence, part)
    assert all(map(torch.equal, batch, (IMAGE, LABEL, INDEX)))
    return sorted(found, key=lambda row: row.key)


def evaluators():
    attacks = [PGD(steps=3), Square(30)]
    attacked = [Attacked(attack, BALL, name=type(attack).__name__, keep_images=2) for attack in attacks]
    return [Clean(), *attacked, Certified(Smoothing(0.25, n0=5, n=20, num_classes=3)), Clean(name="again")]


WRITING = {
    "own classifier": Own,
    "network": lambda scaled: NetworkClassifier(nn.Sequential(Scaling(scaled), network())),
    "purifier": lambda scaled: Purified(Scaling(scaled), NetworkClassifier(network())),
}


@pytest.mark.parametrize("defence", WRITING.values(), ids=WRITING)
def test_a_defence_that_writes_into_its_image_has_the_numbers_of_one_that_does_not(defence):
    expected = rows(defence(plainly), evaluators())
    assert rows(defence(in_place), evaluators()) == expected
    assert rows(defence(in_place), evaluators(), size=10) == expected
    quiet = [evaluator for evaluator in evaluators() if not evaluator.uses_gradients]
    assert rows(defence(through_numpy), quiet) == [row for row in expected if row.evaluator != "PGD"]


def test_an_attack_that_writes_into_everything_changes_its_own_copies():
    defence = NetworkClassifier(network())
    threat = ThreatModel("inf", 0.1)
    found = rows(defence, [Attacked(Greedy(), threat, name="greedy", keep_images=0), Clean()])
    assert threat.eps == 0.1
    assert {row.eps for row in found if row.evaluator == "greedy"} == {0.1}
    assert [row for row in found if row.evaluator == "clean"] == rows(defence, [Clean()])
    with pytest.raises(ValueError, match="the attack left ThreatModel"):
        rows(defence, [Attacked(Greedier(), threat, name="greedier")])


def test_a_metric_that_writes_measures_as_one_that_does_not():
    defence = NetworkClassifier(network())
    found = [
        rows(defence, [Attacked(Greedy(), Perceptual(0.1001, Metric(scaled)), keep_images=0)])
        for scaled in (plainly, in_place, through_numpy)
    ]
    assert found[0] == found[1] == found[2]


def test_a_certifier_that_writes_certifies_as_one_that_does_not():
    defence = NetworkClassifier(network())
    one, other = (rows(defence, [Certified(OwnCertifier(writes)), Clean()], size=7) for writes in (False, True))
    assert one == other


class Body(nn.Module):
    """A denoiser from elsewhere, which scales its input before it uses it."""

    def __init__(self, scaled):
        super().__init__()
        self.scaled, self.inner = scaled, denoiser()
        self.num_classes, self.sigma_min, self.sigma_max = self.inner.num_classes, 0.0, math.inf

    def forward(self, x, sigma, label=None):
        return self.inner(self.scaled(x), sigma, label)


class Towards:
    """Guidance towards the reference, which writes into state and reference."""

    def __init__(self, scaled):
        self.scaled = scaled

    def gradient(self, x, sigma, reference):
        return self.scaled(reference) - self.scaled(x)


@pytest.mark.parametrize(
    "defence",
    [
        lambda scaled: DiffPure(Body(scaled), 0.1, steps=3),
        lambda scaled: AGDM(denoiser(), Towards(scaled), 0.1, scale=0.5, steps=3),
        lambda scaled: NoisedDiffusionClassifier(Body(scaled), 3, 0.25, nodes=4, engine=Engine(batch_size=30)),
    ],
    ids=["denoiser", "guidance", "NDC"],
)
def test_parts_of_a_defence_that_write_into_states_change_no_output(defence):
    """To rounding: the arithmetic in place is the same."""
    noise = Noise.of(0, INDEX)
    with torch.no_grad():
        expected, found, other = (defence(scaled)(IMAGE, noise) for scaled in (plainly, in_place, through_numpy))
    assert torch.equal(found, expected)
    assert torch.allclose(other, expected, atol=1e-5)
