"""Prediction of a smoothed classifier in one call."""

import pytest
import torch
from torch import nn

from common.api import certify, predict
from common.noise import Noise
from common.robustness import NetworkClassifier, Smoothing

QUIET = {"progress": False, "accelerator": "cpu"}
IMAGES = torch.rand(10, 1, 4, 4, generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    """Three classes by the brightness of the upper half, the lower half, and neither."""

    def forward(self, image):
        upper, lower = image[:, :, :2].mean((1, 2, 3)), image[:, :, 2:].mean((1, 2, 3))
        return torch.stack((upper, lower, torch.full_like(upper, 0.45)), 1)


def test_it_is_predict_of_the_certifier():
    found = predict(Net(), IMAGES, sigma=0.1, n=60, alpha=0.01, seed=2, **QUIET)
    noise = Noise.of(2, torch.arange(10)).stream("smoothing")
    expected = Smoothing(0.1, n0=1, n=60, alpha=0.01, num_classes=3).predict(NetworkClassifier(Net()), IMAGES, noise)
    assert found.classes.tolist() == [one.prediction for one in expected]
    assert found.p_values.tolist() == [one.p_value for one in expected]
    assert found.counts.tolist() == [[one.count, one.second] for one in expected]
    assert found.samples == 60
    assert 0 < int(found.abstained.sum()) < 10
    assert torch.equal(found.abstained, found.classes < 0)


def test_it_names_the_certified_classes():
    """Equal classes where both decide: error rate at most 0.002 for each image."""
    predicted = predict(Net(), IMAGES, sigma=0.1, n=500, **QUIET)
    certified = certify(Net(), IMAGES, [0] * 10, sigma=0.1, n=500, n0=50, **QUIET)
    both = [(one, row.prediction) for one, row in zip(predicted.classes.tolist(), certified.records, strict=True)
            if one >= 0 and row.prediction >= 0]  # fmt: skip
    assert len(both) > 4
    assert all(one == other for one, other in both)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": IMAGES * 255}, "Write images / 255"),
        ({"sigma": -1}, "sigma must be above 0"),
        ({"n": 0}, "n must be an integer >= 1"),
        ({"alpha": 2}, "alpha"),
        ({"defence": "resnet"}, "defence must be an nn"),
        ({"sigma": torch.tensor([3, 1])}, "predict takes no labels"),
    ],
)
def test_mistakes_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        predict(**{"defence": Net(), "images": IMAGES, **QUIET, **arguments})


class Noisy(NetworkClassifier):
    """A classifier of images with noise of one level."""

    sigma = 0.5


def test_the_noise_level_of_a_classifier_is_respected():
    for run in (predict, lambda *arguments, **options: certify(*arguments, [0] * 10, **options)):
        with pytest.raises(ValueError, match=r"expects noise of level 0.5 \(pixels\); got sigma 0.25"):
            run(Noisy(Net()), IMAGES, sigma=0.25, **QUIET)
