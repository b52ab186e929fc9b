"""Entries that read pixels, dtypes and rows of noise: what means something else is refused, not computed."""

import pytest
import torch
from torch import nn

from common.diffusion.adjoint import Adjoint
from common.noise import Noise
from common.robustness import PGD, NetworkClassifier, Purified, Smoothing, ThreatModel, Transfer
from diffpure.langevin import LangevinDiffPure
from diffpure.likelihood_maximisation import LikelihoodMaximisation
from diffpure.purifier import DiffPure
from ndc import BoundedDiffusionClassifier, DenoisedClassifier, NoisedDiffusionClassifier
from tests.defences import CLASSES, batch, denoiser, head

IMAGE, LABEL, INDEX = batch(3)
NOISE = Noise.of(0, INDEX)
DIFFUSION_CLASSIFIERS = {
    "NDC": lambda: NoisedDiffusionClassifier(denoiser(), CLASSES, 0.25, nodes=2),
    "bounded": lambda: BoundedDiffusionClassifier(denoiser(), CLASSES, nodes=2),
    "DC": lambda: NoisedDiffusionClassifier(denoiser(), CLASSES, 0, "dc", nodes=2),
}
DEFENCES = {
    **DIFFUSION_CLASSIFIERS,
    "network": head,
    "purified": lambda: Purified(DiffPure(denoiser(), 0.1, steps=2), head()),
    "purifier": lambda: DiffPure(denoiser(), 0.1, steps=2),
    "langevin": lambda: LangevinDiffPure(denoiser(), 0.1, steps=2),
    "likelihood": lambda: LikelihoodMaximisation(denoiser(), 2),
    "denoised": lambda: DenoisedClassifier(denoiser(), head(), 0.25),
}


@pytest.mark.parametrize("name", DIFFUSION_CLASSIFIERS)
def test_a_diffusion_classifier_takes_a_row_of_noise_per_image(name):
    for noise in (NOISE.draws(2), NOISE.rows(slice(0, 2)), NOISE.rows(slice(0, 0))):
        with pytest.raises(ValueError, match="a row of noise per image"):
            DIFFUSION_CLASSIFIERS[name]()(IMAGE, noise)


@pytest.mark.parametrize("name", DIFFUSION_CLASSIFIERS)
def test_a_diffusion_classifier_takes_finite_pixels_with_noise(name):
    for image, message in ((IMAGE * torch.nan, "finite"), (IMAGE * 255, r"in \[0,1\]"), (IMAGE - 40, r"in \[0,1\]")):
        with pytest.raises(ValueError, match=f"images must be {message}"):
            DIFFUSION_CLASSIFIERS[name]()(image, NOISE)
    DIFFUSION_CLASSIFIERS[name]()(IMAGE + 1.5 * NOISE.normal(9, IMAGE.shape[1:]), NOISE)


@pytest.mark.parametrize("name", DEFENCES)
def test_half_images_and_images_without_values_are_refused_before_a_network_is(name):
    for image in (IMAGE.half(), IMAGE.bfloat16()):
        with pytest.raises(ValueError, match="images must be float32, as the weights are"):
            DEFENCES[name]()(image, NOISE)
    with pytest.raises(ValueError, match="images must have values; got a tensor on the meta device"):
        DEFENCES[name]()(IMAGE.to("meta"), NOISE)


def test_half_images_fit_a_half_network():
    plain = nn.Sequential(nn.Flatten(), nn.Linear(IMAGE[0].numel(), 2)).half()
    assert NetworkClassifier(plain)(IMAGE.half()).dtype == torch.float16


class Scaled(nn.Module):
    randomised = False

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, image, noise=None):
        return image * self.factor


@pytest.mark.parametrize("factor", [255, 1000, 1e30])
def test_a_purifier_returns_pixels(factor):
    with pytest.raises(ValueError, match=r"a purifier must return pixels in about \[0,1\]; got"):
        Purified(Scaled(factor), head())(IMAGE, NOISE)
    assert Purified(Scaled(1.3), head())(IMAGE, NOISE).shape == (3, CLASSES)


@pytest.mark.parametrize("image", [IMAGE.mul(255).byte(), IMAGE * 255, IMAGE.half(), IMAGE.to("meta")])
def test_a_transfer_checks_its_images_before_it_moves_its_source(image):
    source = head()
    with pytest.raises(ValueError, match="images must"):
        Transfer(source, PGD(2))(head(), image, LABEL, ThreatModel("inf", 0.1), NOISE)
    assert all(not weights.is_meta for weights in source.parameters())


@pytest.mark.parametrize("image", [IMAGE.mul(255).byte(), IMAGE[0]])
def test_counts_of_a_certifier_take_float_images(image):
    with pytest.raises(ValueError, match="images must be floats"):
        Smoothing(0.25, n0=5, n=20, num_classes=CLASSES).counts(head(), image, NOISE, 20)


@pytest.mark.parametrize("mode", [Adjoint(), Adjoint(dt=0.01), "checkpoint", "full", "bpda"])
def test_a_gradient_of_no_image_is_empty(mode):
    image = torch.zeros(0, *IMAGE.shape[1:]).requires_grad_()
    purified = DiffPure(denoiser(), 0.1, steps=2, gradient=mode)(image, NOISE.rows(slice(0, 0)))
    (gradient,) = torch.autograd.grad(purified.sum(), image)
    assert gradient.shape == image.shape
