"""Curves of both theorems over t*: closed forms of each line, and the purifiers' distances."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from common.diffusion.schedules import EDM, VP
from common.experiments.curves import Curves
from common.noise import Noise
from diffpure.divergence import random_sign_kl_bound
from diffpure.reconstruction import noise_radius
from diffpure.theory import DELTA, theory_curves

STUDY = Path(__file__).parents[2] / "configs" / "studies" / "cifar10" / "t-star.curves.csv"
TIMES = [0.05, 0.1, 0.3]
EPS = 0.04
D = 48


class Shifted(nn.Module):
    """A purifier that ignores its input and returns the ``image``, ``by`` pixel units brighter."""

    def __init__(self, image: Tensor, by: float) -> None:
        super().__init__()
        self.image, self.by = image, by

    def forward(self, image: Tensor, noise: Noise) -> Tensor:
        return self.image[noise.index] + self.by


@pytest.fixture
def images() -> Tensor:
    return torch.rand(70, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_the_lines_have_their_closed_forms(images):
    curves = theory_curves(images, EPS, TIMES, {0.1: Shifted(images, 0.05)})
    assert (curves.axis, curves.places) == ("t*", TIMES)
    nats, lengths = curves.panels.values()
    bound, estimate, random = nats.values()
    score, theorem, measured, apart = lengths.values()
    for k, t in enumerate(TIMES):
        sigma = float(VP().sigma(torch.tensor(t, dtype=torch.float64)))
        assert bound[k] == pytest.approx(D * (2 * EPS) ** 2 / (2 * sigma**2))
        assert random[k] == pytest.approx(random_sign_kl_bound(2 * EPS, sigma, D))
        assert score[k] == pytest.approx(2 * EPS + (2 + math.sqrt(2)) * sigma)
        assert theorem[k] == pytest.approx(2 * EPS + sigma * noise_radius(D, DELTA) / math.sqrt(D))
    assert estimate[0] == pytest.approx(bound[0], rel=1e-3)
    assert estimate[2] < 0.9 * bound[2]
    assert measured == [None, pytest.approx(0.1), None]
    pairs = torch.cdist(2 * images.flatten(1), 2 * images.flatten(1))
    assert apart == [pytest.approx(float(pairs.sum()) / (70 * 69) / math.sqrt(D))] * 3


def test_without_purifiers_nothing_is_measured(images):
    nats, lengths = theory_curves(images, EPS, TIMES).panels.values()
    assert len(nats) == 3 and not any("measured" in name for name in lengths)


def test_the_curves_of_the_cifar10_study_are_those_of_its_threat():
    """The bounds in the kept file by their formulas, to its four digits; the estimate stays below its bound."""
    curves = Curves.read(STUDY)
    nats, lengths = curves.panels.values()
    d, a, rounding = 3072, 16 / 255, 1e-3
    for k, t in enumerate(curves.places):
        sigma = float(VP().sigma(torch.tensor(t, dtype=torch.float64)))
        bound, random = d * a**2 / (2 * sigma**2), random_sign_kl_bound(a, sigma, d)
        assert nats["any attack, bound"][k] == pytest.approx(bound, rel=rounding)
        assert nats["256 images, estimate"][k] <= bound * (1 + rounding)
        assert nats["random signs, bound"][k] == pytest.approx(random, rel=rounding)
        assert lengths["mean, exact score, bound"][k] == pytest.approx(a + (2 + math.sqrt(2)) * sigma, rel=rounding)
        theorem = a + sigma * noise_radius(d, DELTA) / math.sqrt(d)
        assert lengths["95 %, C_s = 0, bound"][k] == pytest.approx(theorem, rel=rounding)
        measured = lengths["purified, measured"][k]
        assert measured is None or measured < theorem
    assert sum(value is not None for value in lengths["purified, measured"]) == 6


def test_unfit_arguments_are_refused(images):
    with pytest.raises(ValueError, match="two or more"):
        theory_curves(images[:1], EPS, TIMES)
    with pytest.raises(ValueError, match="purifiers must be by times of t_star"):
        theory_curves(images, EPS, TIMES, {0.2: nn.Identity()})
    with pytest.raises(ValueError, match="eps, in pixels, must be"):
        theory_curves(images, 8.0, TIMES)
    with pytest.raises(ValueError, match="variance-preserving"):
        theory_curves(images, EPS, TIMES, schedule=EDM())
