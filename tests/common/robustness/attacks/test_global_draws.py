"""Attacks that draw from global generators are warned of: their results depend on the batch and do not resume."""

import random
import warnings

import numpy as np
import pytest
import torch

from common.robustness import APGD, FAB, PGD, Attacked, Square, ThreatModel
from tests.defences import batch, diffpure, head

BALL = ThreatModel("inf", 0.1)


def moved(image, amount):
    return (image + 0.1 * torch.as_tensor(amount, dtype=image.dtype)).clamp(0, 1)


DRAWS = {
    "torch": lambda classifier, image, *rest: moved(image, torch.rand_like(image)),
    "numpy": lambda classifier, image, *rest: moved(image, np.random.rand(*image.shape)),  # noqa: NPY002
    "random": lambda classifier, image, *rest: moved(image, random.random()),
    "a classifier without noise": lambda classifier, image, *rest: moved(image, classifier(image).sigmoid().mean()),
}
NONE = {
    "noise": lambda classifier, image, label, threat, noise: moved(image, noise.uniform(0, image.shape[1:])),
    "a generator": lambda classifier, image, *rest: moved(
        image, torch.rand(image.shape, generator=torch.Generator().manual_seed(0))
    ),
    "a forked generator": lambda classifier, image, *rest: moved(image, forked(image)),
    "PGD": PGD(2),
    "APGD": APGD(2),
    "FAB": FAB(2),
    "Square": Square(3),
}


def forked(image):
    with torch.random.fork_rng():
        return torch.rand_like(image)


def warned(attack, classifier):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        records = Attacked(attack, BALL, draws=1)(classifier, batch(2))
    assert len(records) == 2
    return ["global generator" in str(one.message) for one in caught]


@pytest.mark.parametrize("name", DRAWS)
def test_draws_from_a_global_generator_are_warned_of(name):
    assert warned(DRAWS[name], diffpure()) == [True]


@pytest.mark.parametrize("name", NONE)
def test_other_draws_are_not(name):
    for classifier in (head(), diffpure()):
        assert warned(NONE[name], classifier) == []
