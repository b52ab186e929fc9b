"""Noise and first denoising at a larger size, classes compared at a smaller one: the published procedure on ImageNet.

Networks are small ones of the published layouts, with random weights: guided diffusion's unconditional ADM with a
learned variance at 16 pixels, EDM's class-conditional ADM at 4.
"""

import math
from copy import deepcopy

import pytest
import torch
from torch.nn import functional as F

from common.diffusion.denoisers import EDMDenoiser, EpsDenoiser
from common.diffusion.networks import ADM, EDMADM
from common.engine.engine import Engine
from common.engine.meter import Meter
from common.exact import ExactDenoiser, GaussianMixture
from common.noise import Noise
from common.robustness.certification.preconditions import check_sound
from common.robustness.certification.sequential import Sequential
from common.robustness.certification.smoothing import Smoothing
from common.robustness.evaluation.clean_and_certified import Certified
from common.units import to_pixel
from ndc.classifier import NoisedDiffusionClassifier
from ndc.nodes import Nodes
from ndc.posterior import Posterior
from ndc.reduction import Reduction
from ndc.sifting import Sifting

LARGER, SMALLER, CLASSES = 16, 4, 4


@pytest.fixture(scope="module")
def denoisers():
    """Unconditional at the larger size, class-conditional at the smaller one, in float64."""
    larger = ADM(LARGER, 3, 32, 6, 1, (2,), channel_mult=(1, 1), num_head_channels=16, use_scale_shift_norm=True,
                 resblock_updown=True)  # fmt: skip
    smaller = EDMADM(SMALLER, 3, CLASSES, model_channels=64, channel_mult=(1,), num_blocks=1, attn_resolutions=(4,))
    generator = torch.Generator().manual_seed(0)
    for network in (larger, smaller):
        for parameter in network.parameters():  # last layers of published bodies start at zero
            parameter.data = 0.08 * torch.randn(parameter.shape, generator=generator)
        network.double().eval().requires_grad_(False)
    return EpsDenoiser.guided_diffusion(larger), EDMDenoiser(smaller, num_classes=CLASSES)


@pytest.fixture
def classifier(denoisers):
    def build(**settings):
        settings = {"nodes": Nodes(6, "reference"), "weight": "reference", "sigma": 0.25, **settings}
        settings = {"reduction": Reduction(LARGER, SMALLER), "unconditional": denoisers[0], **settings}
        return NoisedDiffusionClassifier(denoisers[1], CLASSES, **settings)

    return build


def batch(count, side=LARGER):
    generator = torch.Generator().manual_seed(2)
    clean = torch.rand(count, 3, side, side, generator=generator, dtype=torch.float64)
    noise = Noise.of(4, torch.arange(count) + 10)
    return clean + 0.25 * noise.stream("gaussian").normal(0, clean.shape[1:], clean.dtype), noise


@pytest.mark.parametrize("interpolation", ["area", "bilinear"])
def test_the_logits_are_those_of_the_steps_one_by_one(denoisers, classifier, interpolation):
    """Network of the larger size at the nearest of its 1,000 levels, pooling, then every node and class by hand."""
    image, noise = batch(2)
    logits = classifier(reduction=Reduction(LARGER, SMALLER, interpolation))(image, noise)
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    alpha_bar = (1 - beta).cumprod(0)
    x = 2 * image - 1
    index = ((1 / alpha_bar - 1).sqrt() - 0.5).abs().argmin()
    eps = denoisers[0].network(x / math.sqrt(1 + 0.5**2), index.expand(2))[:, :3]
    larger = x - 0.5 * eps
    if interpolation == "area":
        x0 = F.avg_pool2d(larger, LARGER // SMALLER)
    else:
        x0 = F.interpolate(larger, size=(SMALLER, SMALLER), mode="bilinear", antialias=True)
    grid, body = torch.linspace(0.5, 3, 8, dtype=torch.float64), denoisers[1].network
    loss = torch.zeros(2, CLASSES, dtype=torch.float64)
    for i in range(6):
        s = grid[i + 1]
        xt = x0 + s * noise.stream("ndc").normal(i, (3, SMALLER, SMALLER), torch.float64)
        density = torch.exp(-((grid[i].log() + 1.2) ** 2) / 2 * 1.44) / (grid[i] * 1.2 * math.sqrt(2 * math.pi))
        scale = (s**2 + 0.25) / (s * 0.5) ** 2 * density * (s - grid[i])
        for y in range(CLASSES):
            one_hot = F.one_hot(torch.full((2,), y), CLASSES).double()
            out = body(xt / (s**2 + 0.25).sqrt(), (s.log() / 4).expand(2), one_hot)
            denoised = 0.25 / (s**2 + 0.25) * xt + s * 0.5 / (s**2 + 0.25).sqrt() * out
            loss[:, y] += scale * (denoised - x0).square().flatten(1).mean(1)
    torch.testing.assert_close(logits, -loss, rtol=1e-8, atol=1e-10)
    assert (loss.amax(1) - loss.amin(1) > 1e-4).all()


def test_the_larger_network_is_called_once_an_image(denoisers, classifier):
    """Rows by size, as the networks see them, and evaluations as the meter of a test counts them."""
    rows = {LARGER: 0, SMALLER: 0}

    def count(module, arguments):
        rows[arguments[0].shape[-1]] += len(arguments[0])

    hooks = [denoiser.network.register_forward_pre_hook(count) for denoiser in denoisers]
    image, noise = batch(3)
    defence = classifier(engine=Engine(batch_size=7))
    with Meter(defence) as meter, torch.no_grad():
        defence(image, noise)
    for hook in hooks:
        hook.remove()
    assert rows == {LARGER: 3, SMALLER: 3 * 6 * CLASSES}
    assert meter.spent.evaluations == sum(rows.values()) == 3 * defence.evaluations


@pytest.mark.parametrize("settings", [{}, {"elimination": Sifting(Nodes(2, "reference"), 1e-3, 2)}])
@pytest.mark.parametrize("rows", [5, 512])
def test_the_gradient_reaches_the_larger_image(classifier, settings, rows):
    """In random directions, against finite differences, with and without recomputed calls."""
    image, noise = batch(1)
    defence = classifier(engine=Engine(batch_size=rows), nodes=Nodes(2, "reference"), **settings)
    assert torch.autograd.gradcheck(lambda i: defence(i, noise), image.requires_grad_(), fast_mode=True)


@pytest.mark.parametrize("batch_size", [1, 4, "auto"])
def test_an_image_sees_neither_its_batch_nor_the_batch_size(classifier, batch_size):
    image, noise = batch(3)
    sifting = Sifting(Nodes(4, "reference"), 1e-3, 2)
    with torch.no_grad():
        whole = classifier(elimination=sifting)(image, noise)
        part = classifier(elimination=sifting, engine=Engine(batch_size=batch_size))
        parts = [part(image[b], noise.rows(b)) for b in (slice(0, 2), slice(2, 3))]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-9, atol=1e-11)


def test_the_view_has_the_size_of_the_image(denoisers, classifier):
    image, noise = batch(2)
    view = classifier().views(image, noise)["denoised"]
    expected = to_pixel(denoisers[0](2 * image - 1, torch.tensor(0.5, dtype=torch.float64)))
    torch.testing.assert_close(view, expected)
    assert view.shape == image.shape


# Certification -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "certifier",
    [Smoothing(0.25, n0=4, n=30, alpha=0.05, num_classes=CLASSES, batch_size=8),
     Sequential(0.25, n0=4, n=40, alpha=0.05, num_classes=CLASSES, targets=(0.05,), first=10)],
    ids=["smoothing", "sequential"],
)  # fmt: skip
def test_a_certification_adds_its_noise_at_the_larger_size(classifier, certifier):
    """Rows of the first network differ from the clean image by noise of 0.25 (pixels) at every pixel of 16 x 16."""
    seen = []
    favoured = Posterior(log_prior=[1.0, 0.0, 0.0, 0.0])  # random networks favour none
    defence = deepcopy(classifier(posterior=favoured)).float()  # as in a test
    defence.unconditional.network.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    image, label = torch.full((1, 3, LARGER, LARGER), 0.5), torch.tensor([0])
    (row,) = Certified(certifier)(defence, (image, label, torch.tensor([7])))
    x_tau = torch.cat([rows for rows in seen if len(rows) > 1]) * math.sqrt(1 + 0.5**2)
    noise = to_pixel(x_tau) - 0.5
    assert noise.shape[1:] == (3, LARGER, LARGER)
    assert noise.std().item() == pytest.approx(0.25, rel=0.02)
    neighbours = (noise[..., ::2] * noise[..., 1::2]).mean() / noise.var()
    assert abs(neighbours) < 0.02  # white: not noise of the smaller size
    quantile = torch.special.ndtri(torch.tensor(row.p_lower, dtype=torch.float64)).item()
    assert 0 < row.radius == pytest.approx(0.25 * quantile, rel=1e-5)  # of six digits


def opposite(distance):
    """Two classes at +-M of 4 x 4 pixels and their reductions to 2 x 2: a radius of ``distance`` (pixels) around M."""
    smaller = torch.tensor([[1.0, -1.0], [0.5, 1.0]], dtype=torch.float64).view(1, 1, 2, 2)
    larger = smaller.repeat_interleave(2, 2).repeat_interleave(2, 3)
    scale = 2 * distance / larger.norm()  # distances in the model frame are twice those of pixels
    means = [scale * torch.cat((m, -m)) for m in (larger, smaller)]
    return [ExactDenoiser(GaussianMixture(m, 0.05)) for m in means], to_pixel(means[0])


@pytest.mark.parametrize("settings", [{}, {"elimination": Sifting(Nodes(4), 1e-3, 1)}])
def test_a_radius_is_in_the_larger_space(settings):
    """Two classes whose boundary is a hyperplane at 0.6 (pixels) from the image in the larger space.

    The smoothed classifier is symmetric, so its boundary is that hyperplane: certificates never exceed 0.6 in the space
    of the noise. They do exceed 0.3, its distance in the space of the reduced images, half as long for blocks of 2 x 2.
    """
    (larger, smaller), image = opposite(0.6)
    classifier = NoisedDiffusionClassifier(
        smaller, 2, 0.25, nodes=4, unconditional=larger, reduction=Reduction(4, 2), **settings
    )
    noise = Noise.of(0, torch.arange(2))
    check_sound(classifier, image[:1], 0.25, noise.rows(slice(0, 1)))
    for certifier in (Smoothing(0.25, n0=20, n=1500), Sequential(0.25, n0=20, n=1500, targets=(0.4,))):
        certifier = (
            certifier if certifier.num_classes == 2 else type(certifier)(**{**vars(certifier), "num_classes": 2})
        )
        certificates = certifier.certify(classifier, image, noise)
        assert [certificate.prediction for certificate in certificates] == [0, 1]
        for certificate in certificates:
            assert 0.3 < certificate.radius < 0.6
            assert certificate.p_lower < torch.special.ndtr(torch.tensor(0.6 / 0.25, dtype=torch.float64))


def test_certificates_do_not_depend_on_batch_sizes():
    (larger, smaller), image = opposite(0.3)
    found = []
    for samples, rows in ((7, 5), (1024, 512)):
        classifier = NoisedDiffusionClassifier(
            smaller, 2, 0.25, nodes=4, unconditional=larger, reduction=Reduction(4, 2), engine=Engine(batch_size=rows)
        )
        certifier = Smoothing(0.25, n0=10, n=100, num_classes=2, batch_size=samples)
        found.append(certifier.certify(classifier, image, Noise.of(0, torch.arange(2))))
    assert found[0] == found[1]


# Contradictory settings ----------------------------------------------------------------------------------------------


def test_contradictions_are_refused(denoisers, classifier):
    reduction = Reduction(LARGER, SMALLER)
    with pytest.raises(
        ValueError, match=r"needs variant 'apndc' and an unconditional denoiser .*; got variant 'epndc'"
    ):
        classifier(variant="epndc", weight="lognormal", nodes=4)
    with pytest.raises(ValueError, match=r"needs variant 'apndc' and an unconditional denoiser .* unconditional=None"):
        classifier(unconditional=None)
    with pytest.raises(ValueError, match="reduction must be a Reduction"):
        classifier(reduction=8)
    image, noise = batch(1, side=SMALLER)
    with pytest.raises(ValueError, match=r"images must be 16 x 16 pixels, .*; got 4 x 4. Set the data's size"):
        classifier()(image, noise)
    with pytest.raises(ValueError, match="images must be 16 x 16 pixels"):
        classifier().views(image, noise)
    assert reduction.noise_gain == 0.25
    assert classifier(nodes=Nodes(4, sigma_min=0.125), weight="lognormal").bound.sigma[0] > 0.125
    with pytest.raises(
        ValueError, match=r"not lie below 2 sigma = 0.5, times 0.25 = 0.125 after the reduction; got 0.12"
    ):
        classifier(nodes=Nodes(4, sigma_min=0.12), weight="lognormal")
    assert classifier().bound.sigma[0] == 0.5 + 2.5 / 7  # from sigma_tau on, as published
