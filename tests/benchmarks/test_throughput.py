"""Throughput of the hot paths on small networks: noise, a purification, its gradient, an attack, a certification.

Absolute times depend on the machine: compare two commits on one machine (``--benchmark-autosave``, then
``--benchmark-compare``). Each benchmark also asserts that its result is usable.
"""

import pytest
import torch

from agdm.guidance import AdversarialGuidance
from agdm.networks import GuidanceNetwork
from agdm.purifier import AGDM
from common.diffusion.denoisers import EDMDenoiser
from common.diffusion.networks import DDPMpp
from common.networks import SmallCNN
from common.noise import Noise
from common.robustness.attacks.pgd import PGD
from common.robustness.certification.smoothing import Smoothing
from common.robustness.classifiers import NetworkClassifier, Purified
from common.robustness.threats.norm_ball import ThreatModel
from diffpure.purifier import DiffPure
from ndc.classifier import NoisedDiffusionClassifier

pytestmark = pytest.mark.bench
pytest.importorskip("pytest_benchmark", reason='timings need the extra "bench"')

IMAGES, SIDE, CLASSES = 8, 8, 10
SIZES = {"img_resolution": SIDE, "img_channels": 1, "model_channels": 16, "channel_mult": [1], "num_blocks": 1}


@pytest.fixture
def denoiser() -> EDMDenoiser:
    torch.manual_seed(0)
    body = DDPMpp(**SIZES, label_dim=CLASSES, attn_resolutions=[4], dropout=0.0)
    return EDMDenoiser(body, num_classes=CLASSES).eval().requires_grad_(False)


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor, Noise]:
    """Eight images in [0,1], their labels and their noise."""
    image = torch.rand(IMAGES, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    return image, torch.arange(IMAGES) % CLASSES, Noise.of(0, torch.arange(IMAGES))


def purifier_of(method: str, denoiser: EDMDenoiser) -> DiffPure | AGDM:
    """Five steps of either method with its default differentiation mode."""
    if method == "diffpure":
        return DiffPure(denoiser, 0.1, steps=5)
    guidance = AdversarialGuidance(GuidanceNetwork(in_channels=1, num_classes=CLASSES))
    return AGDM(denoiser, guidance, 0.1, scale=20.0, steps=5)


def test_normals(benchmark, batch):
    """2^18 standard normal numbers from the counter-based generator."""
    z = benchmark(batch[2].normal, 0, (1, 128, 256))
    assert z.shape == (IMAGES, 1, 128, 256)


@pytest.mark.parametrize("method", ["diffpure", "agdm"])
def test_purification(benchmark, denoiser, batch, method):
    image, _, noise = batch
    with torch.no_grad():
        purified = benchmark(purifier_of(method, denoiser), image, noise)
    assert purified.shape == image.shape


@pytest.mark.parametrize("method", ["diffpure", "agdm"])
def test_gradient_of_a_purification(benchmark, denoiser, batch, method):
    image, _, noise = batch
    purifier = purifier_of(method, denoiser)

    def gradient() -> torch.Tensor:
        leaf = image.clone().requires_grad_()
        return torch.autograd.grad(purifier(leaf, noise).square().sum(), leaf)[0]

    assert benchmark(gradient).isfinite().all()


def test_pgd_with_eot(benchmark, denoiser, batch):
    """Two steps with two EOT draws through DiffPure and a small classifier."""
    image, label, noise = batch
    defence = Purified(purifier_of("diffpure", denoiser), NetworkClassifier(SmallCNN(CLASSES, 1))).freeze()
    threat = ThreatModel("inf", "8/255")
    adv = benchmark(PGD(steps=2, eot=2), defence, image, label, threat, noise)
    assert (adv - image).abs().max() <= 8 / 255 + 1e-6


def test_certification(benchmark, denoiser, batch):
    """30 samples of one image by APNDC with four nodes."""
    image, _, noise = batch
    classifier = NoisedDiffusionClassifier(denoiser, CLASSES, 0.25, nodes=4)
    smoothing = Smoothing(0.25, n0=10, n=20, num_classes=CLASSES)
    (certificate,) = benchmark(smoothing.certify, classifier, image[:1], noise.rows(slice(0, 1)))
    assert certificate.samples == 20
