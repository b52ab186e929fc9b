"""Baseline guidances: closed forms, published settings, and gradients for attacks."""

import math

import pytest
import torch
from torch import nn

from agdm.baselines import ClassifierGuidance, ContrastiveGuidance, PixelGuidance, gdmp_scale
from agdm.guidance import GuidanceClassifier
from agdm.networks import GuidanceNetwork
from agdm.purifier import AGDM
from agdm.steering import Steering
from common.data.datasets import ImageDataset
from common.data.image_data import ImageData
from common.diffusion.schedules import DDPM
from common.diffusion.solvers import Ancestral
from common.diffusion.steps import Step
from common.exact import ExactDenoiser, GaussianMixture
from common.noise import Noise
from common.robustness.classifiers import NetworkClassifier, Purified
from common.robustness.gradient_check.classifier_check import GradientCheck, failure_message
from common.units import to_model, to_pixel

SHAPE = (1, 6, 6)
LEVELS = torch.tensor([0.1, 0.4, 1.3], dtype=torch.float64)


def randn(rows, seed=0, shape=SHAPE):
    return torch.randn(rows, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network():
    torch.manual_seed(0)
    phi = GuidanceNetwork(in_channels=1, num_classes=3, width=8, strides=(1, 2)).double()
    for block in phi.blocks:
        nn.init.normal_(block.film.weight, std=0.3)
    return phi


def classifier():
    torch.manual_seed(1)
    return NetworkClassifier(nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Tanh(), nn.Linear(8, 3))).double()


GUIDANCES = {
    "mse": lambda: PixelGuidance(),
    "weighted": lambda: PixelGuidance(weighted=True),
    "ssim": lambda: PixelGuidance("ssim", window=0.5),
    **{label: lambda label=label: ClassifierGuidance(classifier(), label) for label in ("soft", "hard", "confidence")},
    "contrastive": lambda: ContrastiveGuidance(network(), randn(5, 3).sigmoid(), temperature=0.3),
}
every = pytest.mark.parametrize("guidance", [make() for make in GUIDANCES.values()], ids=GUIDANCES)


def step(purifier, x, image, z, noise):
    """The first step of a purification of ``image`` from the state x, with the noise z."""
    sampler = purifier.sampler(noise)
    first = Step.between(sampler.schedule, sampler.grid.nodes, x, {1: z})[0]
    return sampler.solver(first, x, purifier.bind(to_model(image), noise))


# ---- closed forms ----


def test_gdmps_step_in_closed_form():
    """Its step at DDPM index i for a batch of B: mean + Σ_t scale_t grad(-MSE over the batch), scale_t = √(1-ᾱ)/(m √ᾱ),
    m = (2 · 8/255)/3/guide_scale, x' diffused to the level of x_t; from the betas."""
    image, xt, z, noise = randn(2).sigmoid(), randn(2, 1), randn(2, 2), Noise.of(4, torch.arange(2))
    guide_scale, i, rows = 60000.0, 35, 2
    steering, solver = Steering("independent", form="sigma"), Ancestral("fixed_large")
    denoiser = ExactDenoiser(GaussianMixture(randn(2, 3), 0.3))
    scale = gdmp_scale(guide_scale, terms=rows * 36)
    settings = {"steps": 36, "solver": solver, "schedule": DDPM(), "t_end": 0.0, "steering": steering}
    purifier = AGDM(denoiser, PixelGuidance(weighted=True), 0.036, scale, **settings)
    found = step(purifier, xt, image, z, noise)

    beta = torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64)
    alpha_bar = (1 - beta).cumprod(0)[i]
    drawn = noise.stream("reference").normal(0, SHAPE).double()
    diffused = alpha_bar.sqrt() * to_model(image) + (1 - alpha_bar).sqrt() * drawn
    leaf = xt.clone().requires_grad_()
    m = (2 * 8 / 255) / 3 / guide_scale
    objective = -nn.functional.mse_loss(leaf, diffused) * (1 - alpha_bar).sqrt() / (m * alpha_bar.sqrt())
    (push,) = torch.autograd.grad(objective, leaf)
    plain = step(AGDM(denoiser, PixelGuidance(weighted=True), 0.036, 0.0, **settings), xt, image, z, noise)
    torch.testing.assert_close(found, plain + beta[i] * push, rtol=1e-9, atol=1e-9)


def test_undiffused_reference_in_closed_form():
    """-2 s (s x - x') with s = 1/√(1+σ²); σ times that, weighted."""
    x, reference, row = randn(3), randn(3, 1), LEVELS.view(3, 1, 1, 1)
    s = 1 / (1 + row**2).sqrt()
    for weight, weighted in ((1, False), (row, True)):
        found = PixelGuidance(weighted=weighted).gradient(x, LEVELS, reference)
        torch.testing.assert_close(found, -2 * weight * s * (s * x - reference))


def test_ssim_in_one_window():
    """Flat images a and b: SSIM = (2ab + c)/(a² + b² + c), c = (0.01 · 2)²; the variances' part is 1."""
    a, b, c, sigma = 0.3, -0.5, 0.02**2, 0.4
    x, reference = (torch.full((1, *SHAPE), value, dtype=torch.float64) for value in (a * math.sqrt(1.16), b))
    guidance = PixelGuidance("ssim", window=0.5)
    found = guidance.log_potential(x, torch.tensor([sigma]).double(), *guidance.embed(reference))
    expected = (2 * a * b + c) / (a**2 + b**2 + c)
    torch.testing.assert_close(found, torch.tensor([expected]).double(), rtol=1e-6, atol=0)


def test_scales_of_gdmp():
    """60000 for a mean over 100 CIFAR-10 images, by hand: 60000 · 3 · 255/16 / 307200."""
    assert gdmp_scale(60000, terms=100 * 3072) == pytest.approx(9.338, abs=5e-4)
    assert gdmp_scale(70000, terms=100) == pytest.approx(33468.75)


@pytest.mark.parametrize("label", ["soft", "hard", "confidence"])
def test_classifier_guidance_of_a_linear_classifier(label):
    """logits W · pixels, pixels = (x + 1)/2: the gradients are (q - p) W / 2, (onehot ŷ - p) W / 2, and the latter
    with ŷ the class that x itself has, whatever x' is."""
    linear = nn.Linear(36, 3).double()
    w = linear.weight.detach()
    x, reference = randn(4), randn(4, 1)
    z, q = (linear(to_pixel(image).flatten(1)).detach() for image in (x, reference))
    towards = {
        "soft": q.softmax(1),
        "hard": nn.functional.one_hot(q.argmax(1), 3),
        "confidence": nn.functional.one_hot(z.argmax(1), 3),
    }[label]
    guidance = ClassifierGuidance(NetworkClassifier(nn.Sequential(nn.Flatten(), linear)), label)
    found = guidance.gradient(x, torch.tensor(0.3), reference).flatten(1)
    torch.testing.assert_close(found, (towards - z.softmax(1)) @ w / 2)


def test_contrast_is_the_share_of_the_reference(linear):
    """InfoNCE by hand: latents A x, cosines over the temperature, the softmax's first entry."""
    phi, negatives = linear(36), randn(4, 2).sigmoid()
    guidance = ContrastiveGuidance(phi, negatives, temperature=0.5)
    x, reference = randn(2), randn(2, 1)
    found = guidance.log_potential(x, torch.zeros(2).double(), *guidance.embed(reference))
    for b in range(2):
        latents = [image.flatten() @ phi.A.T for image in (x[b], reference[b], *to_model(negatives))]
        likeness = torch.stack([nn.functional.cosine_similarity(latents[0], other, dim=0) for other in latents[1:]])
        torch.testing.assert_close(found[b], (likeness / 0.5).softmax(0)[0].log())


def test_negatives_are_evenly_spaced_training_images():
    class Greys(ImageData):
        def load(self, stage=None):
            self.train = ImageDataset(torch.linspace(0, 1, 9).view(9, 1, 1, 1).expand(9, *SHAPE), torch.zeros(9))

    phi = network().float()
    direct = ContrastiveGuidance(phi, torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1).expand(3, *SHAPE))
    torch.testing.assert_close(ContrastiveGuidance(phi, Greys(), count=3).negatives, direct.negatives)
    assert len(ContrastiveGuidance(phi, Greys(), count=100).negatives) == 9


# ---- what every guidance must be ----


@every
def test_gradient_is_that_of_the_potential_and_differentiable(guidance):
    """In state and reference: nothing detached, at each level."""
    x, reference = randn(3).requires_grad_(), randn(3, 1).requires_grad_()
    embedding = guidance.embed(reference)
    (expected,) = torch.autograd.grad(guidance.log_potential(x, LEVELS, *embedding).sum(), x)
    torch.testing.assert_close(guidance.gradient(x, LEVELS, reference), expected)

    def gradient(x, reference):
        found = guidance.gradient(x, LEVELS, reference)
        return found if found.requires_grad else found + 0 * reference  # "confidence" needs none

    assert torch.autograd.gradcheck(gradient, (x, reference), fast_mode=True)
    diffused = guidance.embed(reference, LEVELS)
    assert [part.shape for part in diffused] == [part.shape for part in embedding]


@every
def test_images_of_a_batch_are_independent(guidance):
    x, reference = randn(3), randn(3, 1)
    alone = [guidance.gradient(x[b : b + 1], LEVELS[b : b + 1], reference[b : b + 1]) for b in range(3)]
    torch.testing.assert_close(guidance.gradient(x, LEVELS, reference), torch.cat(alone), rtol=1e-9, atol=1e-11)


@every
@pytest.mark.parametrize("at", ["x", "denoised"])
def test_guided_purifiers_pass_the_gradient_checks(guidance, at):
    denoiser = ExactDenoiser(GaussianMixture(randn(3, 5).float() / 2, 0.3))
    purifier = AGDM(denoiser, guidance.float(), 0.3, 3.0, 3, steering=Steering(at=at))
    image, label, index = randn(1).sigmoid().float(), torch.tensor([0]), torch.tensor([5])
    moved = float(purifier.step_ratios(image, Noise.of(0, index)).max())
    assert moved > 1e-4 or (at == "denoised" and getattr(guidance, "weighted", False) and moved == 0)
    records = GradientCheck()(Purified(purifier, classifier().float()).freeze(), (image, label, index))
    guidance.double()
    assert failure_message(records) == ""


@every
def test_it_is_frozen(guidance):
    assert not any(parameter.requires_grad for parameter in guidance.parameters())
    assert not any(child.training for child in guidance.train().children())
    assert guidance.training
    with torch.inference_mode(), pytest.raises(ValueError, match="inference_mode=False"):
        guidance.gradient(randn(1), torch.tensor(0.3), randn(1, 1))


# ---- refusals ----


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PixelGuidance("l1"), "distance must be"),
        (lambda: PixelGuidance("ssim").embed(randn(1, shape=(1, 5, 9))), "larger than its window"),
        (lambda: ClassifierGuidance(classifier(), "oracle"), "label must be one of"),
        (lambda: ClassifierGuidance(GuidanceClassifier(network(), 0.3)), "deterministic"),
        (lambda: ContrastiveGuidance(network(), randn(2), temperature=0.0), "temperature must be a finite number > 0"),
        (lambda: ContrastiveGuidance(network(), randn(2)[0]), r"images \(M,C,H,W\)"),
        (lambda: gdmp_scale(60000, terms=0), "terms must be an integer >= 1"),
    ],
)
def test_invalid_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
