"""Radii, steps and noise levels in units of 0..255 are refused or warned of: everything is in pixel units of [0,1]."""

import warnings

import pytest
import torch

from agdm.objective import Trades
from common.robustness import PGD, Attacked, NetworkClassifier, Smoothing, ThreatModel, Through, Transfer
from common.robustness.adversarial_training import InnerMaximum, PGDTraining
from common.robustness.masking.variants import masking_suite
from common.tasks.classifier import ClassifierTask
from ndc import DenoisedClassifier, Denoising, NoisedDiffusionClassifier
from tests.defences import CLASSES, batch, denoiser, head

LINF, L2 = ThreatModel("inf", "8/255"), ThreatModel(2, 0.5)
IMAGE, LABEL, INDEX = batch(2)
STEPS = {
    "attack": lambda size: Attacked(PGD(step_size=size), LINF),
    "attack by signs": lambda size: Attacked(PGD(step_size=size, direction="sign"), L2),
    "through": lambda size: Attacked(Through(PGD(step_size=size), "bpda"), LINF),
    "transfer": lambda size: Attacked(Transfer(head(), PGD(step_size=size)), LINF),
    "training": lambda size: PGDTraining(LINF, step_size=size),
    "trades": lambda size: Trades(LINF, step_size=size),
}
LEVELS = {
    "smoothing": lambda sigma: Smoothing(sigma),
    "ndc": lambda sigma: NoisedDiffusionClassifier(denoiser(), CLASSES, sigma, nodes=2),
    "denoising": lambda sigma: Denoising(denoiser(), sigma),
    "denoised": lambda sigma: DenoisedClassifier(denoiser(), head(), sigma),
    "training": lambda sigma: ClassifierTask(head(), noise_sigma=sigma, num_classes=CLASSES),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_step_beyond_the_pixel_range_is_refused(name):
    for size in (8, 2.0, "510/255"):
        with pytest.raises(ValueError, match=r"step_size must be in pixel units, at most 1 .*Write \d+/255"):
            STEPS[name](size)
    STEPS[name]("2/255")


def test_a_direct_call_refuses_it_too():
    with pytest.raises(ValueError, match="step_size must be in pixel units"):
        PGD(2, step_size=8)(head(), IMAGE, LABEL, LINF, INDEX)


@pytest.mark.parametrize(
    ("steps", "size", "threat", "warned"),
    [
        (10, 0.032, LINF, True),
        (10, 8 / 255, LINF, False),
        (1, 16 / 255, LINF, False),  # from any point of the ball to any corner
        (1, 17 / 255, LINF, True),
        (10, 8, L2, True),
        (10, 0.5, L2, False),
        (10, 8, ThreatModel(1, 12), False),  # one coordinate of L1 moves so far
    ],
)
def test_a_step_that_passes_over_the_ball_is_warned_of(steps, size, threat, warned):
    for make in (
        lambda: Attacked(PGD(steps, step_size=size), threat),
        lambda: InnerMaximum(threat, steps, step_size=size),
    ):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            make()
        assert [("step_size" in str(one.message)) for one in caught] == [True] * warned


def test_variants_with_a_larger_budget_keep_to_the_pixel_range():
    with pytest.warns(UserWarning, match="step_size 0.5 is larger than eps"):
        variants = masking_suite(Attacked(PGD(4, step_size=0.5), LINF))
    assert max(one.attack.step_size for one in variants) == 1.0


@pytest.mark.parametrize("name", LEVELS)
def test_noise_levels_of_0_to_255_are_refused(name):
    for sigma in (25, 12.0):
        with pytest.raises(ValueError, match=rf"sigma.* must be in pixel units .*; got {sigma}. Write {sigma}/255"):
            LEVELS[name](sigma)
    LEVELS[name](25 / 255)


@pytest.mark.parametrize(("norm", "eps"), [(2, 25), (2, 8.01), (1, 65)])
def test_a_radius_that_any_image_of_this_size_meets_is_refused(norm, eps):
    image = torch.rand(2, 1, 8, 8)
    attacked = Attacked(PGD(1), ThreatModel(norm, eps), draws=1)
    classifier = NetworkClassifier(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3)))
    label = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match=rf"eps = {eps} .* allows every image of 64 pixels"):
        attacked(classifier, (image, label, torch.arange(2)))
