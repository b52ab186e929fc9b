"""A classifier that changed since it passed the check of soundness is checked again."""

import pytest
import torch
from torch import nn

from common.noise import Noise
from common.robustness.certification.preconditions import check_once
from common.robustness.certification.smoothing import Smoothing
from common.robustness.classifiers import Classifier
from common.robustness.padding import Padded

IMAGE = torch.full((1, 1, 4, 4), 0.5)
NOISE = Noise.of(0, torch.tensor([0]))
CERTIFIER = Smoothing(0.25, n0=5, n=20, num_classes=3)


class Part:
    """No module: an object that a classifier holds."""

    fixed = False


class Jittered(Classifier):
    """Logits with noise of their own, or with the same noise in every draw."""

    randomised = True

    def __init__(self):
        super().__init__()
        self.network, self.mode, self.part = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), "fresh", Part()
        self.options = {"fixed": False}
        self.register_buffer("factor", torch.ones(()), persistent=False)
        self.calls = 0

    def forward(self, image, noise=None):
        self.calls += 1
        z = Noise.or_fresh(noise, image).normal(0, (3,)) * self.factor
        fixed = self.mode == "fixed" or self.part.fixed or self.options["fixed"]
        return self.network(image) + (0 if fixed else z)


def attribute(classifier):
    classifier.mode = "fixed"


def option(classifier):
    classifier.options["fixed"] = True


def held_object(classifier):
    classifier.part.fixed = True


def buffer(classifier):
    classifier.factor.zero_()


def weights(classifier):
    classifier.network[1].weight.data.fill_(torch.nan)


def network(classifier):
    classifier.network = nn.Sequential(classifier.network, nn.BatchNorm1d(3, track_running_stats=False))


CHANGES = [attribute, option, held_object, buffer, weights, network]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("wrapped", [lambda classifier: classifier, Padded])
def test_a_changed_classifier_is_checked_again(change, wrapped):
    classifier = Jittered().eval()
    CERTIFIER.check(wrapped(classifier), IMAGE, NOISE)
    change(classifier)
    for _ in range(2):  # a refusal is no pass
        with pytest.raises(ValueError, match="a certificate"):
            CERTIFIER.check(wrapped(classifier), IMAGE, NOISE)


def test_calls_between_checks_that_change_nothing_repeat_none():
    classifier = Jittered().eval()
    CERTIFIER.check(classifier, IMAGE, NOISE)
    calls = classifier.calls
    CERTIFIER.check(classifier, IMAGE, NOISE)
    assert classifier.calls == calls
    classifier.mode = "other"
    CERTIFIER.check(classifier, IMAGE, NOISE)
    assert classifier.calls == 2 * calls


def test_a_classifier_whose_state_is_unknown_is_checked_at_every_call():
    classifier, setting = Jittered().eval(), {"fixed": False}
    classifier.options = {"fixed": False, "closure": lambda: setting["fixed"]}
    check_once(classifier, IMAGE, 0.25, NOISE)
    calls = classifier.calls
    check_once(classifier, IMAGE, 0.25, NOISE)
    assert classifier.calls == 2 * calls


@pytest.mark.parametrize(
    "image",
    [(IMAGE * 255).byte(), IMAGE * torch.nan, IMAGE * 255, IMAGE.half(), IMAGE.numpy(), IMAGE[0]],
    ids=["uint8", "NaN", "grey levels", "half", "numpy", "no batch"],
)
def test_checks_and_counts_take_float_images_alone(image):
    with pytest.raises(ValueError, match="images must be"):
        CERTIFIER.check(Jittered().eval(), image, NOISE)
    if not isinstance(image, torch.Tensor) or not image.is_floating_point() or image.ndim != 4:
        with pytest.raises(ValueError, match="images must be"):
            CERTIFIER.counts(Jittered().eval(), image, NOISE, 20)
