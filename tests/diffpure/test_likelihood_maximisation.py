"""Likelihood maximisation on exact denoisers: for Gaussian data every step is affine, and the mode is known."""

import pytest
import torch
from torch import nn

from common.diffusion.composed import FixedNoise
from common.diffusion.denoisers import EDMDenoiser
from common.diffusion.differentiation import Checkpoint
from common.diffusion.modes import as_differentiation
from common.diffusion.networks import layers
from common.engine.meter import Meter
from common.exact import ExactDenoiser, GaussianMixture
from common.noise import Noise
from common.robustness.classifiers import NetworkClassifier, Purified
from common.tasks.engine import twice_differentiated
from common.units import to_model, to_pixel
from diffpure.ascent import AdamAscent, GradientAscent
from diffpure.likelihood_maximisation import LikelihoodMaximisation
from ndc.classifier import NoisedDiffusionClassifier

F64 = torch.float64
MEAN, STD = 0.3, 0.4
NOISE = Noise.of(3, torch.tensor([8, 1, 5]))
SHAPE = (1, 3, 3)
ASCENTS = {
    "adam": AdamAscent,
    "adam in three draws": lambda: AdamAscent(0.05, draws=3),
    "gradient": lambda: GradientAscent(0.3),
    "normalised": lambda: GradientAscent(0.05, normalised=True, draws=2),
}


def gaussian(shape: tuple[int, ...] = SHAPE) -> ExactDenoiser:
    return ExactDenoiser(GaussianMixture(torch.full((1, *shape), MEAN, dtype=F64), STD))


def mixture(shape: tuple[int, ...] = SHAPE) -> ExactDenoiser:
    means = torch.stack((torch.full(shape, -0.4, dtype=F64), torch.full(shape, 0.5, dtype=F64)))
    return ExactDenoiser(GaussianMixture(means, 0.3))


class OfImage(nn.Module):
    """A network that takes no noise level."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: torch.Tensor, *others: object) -> torch.Tensor:
        return self.body(x)


@pytest.fixture
def image() -> torch.Tensor:
    return 0.1 + 0.8 * torch.rand(3, *SHAPE, dtype=F64, generator=torch.Generator().manual_seed(0))


def drawn(purifier: LikelihoodMaximisation, rows: Noise = NOISE) -> tuple[torch.Tensor, torch.Tensor]:
    """Levels and noises (S,B,n,...) of the steps."""
    n, S = purifier.solver.draws, purifier.grid.steps
    own = rows if n == 1 else rows.draws(n)
    sigma = purifier.sampler(rows).sigmas()
    z = own.normals(range(1, S + 1), SHAPE).to(F64)
    return sigma.view(S, -1, n, 1, 1, 1), z.view(S, -1, n, *SHAPE)


def test_levels_are_uniform_and_drawn_from_the_noise():
    """10,000 levels of U(0.4, 0.6): by Hoeffding the mean is within 0.004 with probability 1 - 2 exp(-8)."""
    rows = Noise.of(0, torch.arange(2000))
    sigma = LikelihoodMaximisation(gaussian(), 5).sampler(rows).sigmas()
    assert sigma.shape == (5, 2000)
    assert 0.4 <= float(sigma.min()) <= 0.401
    assert 0.599 <= float(sigma.max()) <= 0.6
    assert float(sigma.mean()) == pytest.approx(0.5, abs=0.004)
    assert float(torch.corrcoef(sigma).triu(1).abs().max()) < 0.12  # ten pairs, each beyond 5 deviations
    z = rows.normal(1, (1,))[:, 0].to(F64)
    assert abs(float(torch.corrcoef(torch.stack((z, sigma[0])))[0, 1])) < 0.12


@pytest.mark.parametrize("weight", ["flat", "elbo"])
@pytest.mark.parametrize("draws", [1, 3])
def test_steps_on_gaussian_data_are_affine(weight, draws, image):
    """With a = sigma^2/(s^2 + sigma^2), r = -a (x - mu) + (1 - a) sigma z and x <- x + 2 lr w a r, averaged."""
    ascent = GradientAscent(0.02, draws=draws)
    purifier = LikelihoodMaximisation(gaussian(), 4, ascent=ascent, weight=weight)
    x = to_model(image)
    for sigma, z in zip(*drawn(purifier), strict=True):
        a = sigma**2 / (STD**2 + sigma**2)
        w = 1.0 if weight == "flat" else sigma**-3
        residual = -a * (x[:, None] - MEAN) + (1 - a) * sigma * z
        x = x + 2 * 0.02 * (w * a * residual).mean(1)
    torch.testing.assert_close(purifier(image, NOISE), to_pixel(x), rtol=0, atol=1e-12)


def test_the_maximum_of_the_bound_is_the_mode(image):
    """One level sigma: E x_k - mu = (1 - 2 lr a^2)^k (x - mu); with lr = 1/(2 a^2) one step of 4000 draws ends at mu.

    The noise has the deviation (1 - a) sigma / (a sqrt(4000)) = 0.0046; 27 numbers leave 5 deviations once in 60,000.
    """
    a = 0.5**2 / (STD**2 + 0.5**2)
    one = LikelihoodMaximisation(gaussian(), 1, (0.5, 0.5), ascent=GradientAscent(0.5 / a**2, draws=4000))
    deviation = (1 - a) * 0.5 / (a * 4000**0.5)
    assert float((to_model(one(image, NOISE)) - MEAN).abs().max()) < 5 * deviation < 0.03

    lr, x0 = 0.2, to_model(image)
    slow = LikelihoodMaximisation(gaussian(), 12, (0.5, 0.5), ascent=GradientAscent(lr, draws=200))
    rate = 1 - 2 * lr * a**2
    spread = 2 * lr * a * (1 - a) * 0.5 / (200 * (1 - rate**2)) ** 0.5  # of a stationary AR(1)
    expected = MEAN + rate**12 * (x0 - MEAN)
    assert rate**12 < 0.25
    assert float((to_model(slow(image, NOISE)) - expected).abs().max()) < 5 * spread < 0.04


def test_the_bound_of_fixed_noise_never_falls(image):
    """Plain steps with lr below 1/L on a bound of the same noise in each step, here 60 steps of one restarted run."""
    denoiser, x0 = mixture(), to_model(image)
    sigma, z = torch.full((24,), 0.5, dtype=F64), NOISE.draws(8).normal(0, SHAPE).to(F64)
    bound = LikelihoodMaximisation(denoiser).bind(x0, NOISE)

    def value(x: torch.Tensor) -> torch.Tensor:
        rows = x.repeat_interleave(8, 0)
        errors = (denoiser(rows + 0.5 * z, sigma) - rows).square().flatten(1).sum(1)
        return -errors.view(3, 8).mean(1)

    x, values = x0, [value(x0)]
    for _ in range(60):
        x = x + 0.1 * bound.gradient(x, sigma, z)
        values.append(value(x))
    rises = torch.stack(values).diff(dim=0)
    assert bool((rises >= 0).all())
    assert float(rises.sum(0).min()) > 0.1
    assert float(bound.gradient(x, sigma, z).abs().max()) < 0.02  # and has reached the maximum


@pytest.mark.parametrize("weight", ["flat", "elbo"])
def test_gradient_of_the_bound_is_that_of_finite_differences(weight, image):
    denoiser, x = mixture(), to_model(image)
    bound = LikelihoodMaximisation(denoiser, weight=weight).bind(x, NOISE)
    sigma = torch.tensor([0.4, 0.6, 0.5, 0.45, 0.55, 0.5], dtype=F64)
    z = NOISE.draws(2).normal(4, SHAPE).to(F64)
    v = NOISE.normal(9, SHAPE).to(F64)

    def value(x: torch.Tensor) -> torch.Tensor:
        rows = x.repeat_interleave(2, 0)
        errors = (denoiser(rows + sigma.view(-1, 1, 1, 1) * z, sigma) - rows).square().flatten(1).sum(1)
        return -((1.0 if weight == "flat" else sigma**-3) * errors).view(3, 2).mean(1)

    slope = (value(x + 1e-6 * v) - value(x - 1e-6 * v)) / 2e-6
    torch.testing.assert_close((bound.gradient(x, sigma, z) * v).flatten(1).sum(1), slope, rtol=1e-7, atol=1e-9)


def test_adam_is_that_of_pytorch(image):
    """The same losses by ``torch.optim.Adam``, one image at a time."""
    denoiser = mixture()
    purifier = LikelihoodMaximisation(denoiser, 5, ascent=AdamAscent(0.02, (0.8, 0.9)))
    sigmas, zs = drawn(purifier)
    for row in range(3):
        x = to_model(image[row : row + 1]).clone().requires_grad_()
        optimiser = torch.optim.Adam([x], lr=0.02, betas=(0.8, 0.9))
        for sigma, z in zip(sigmas[:, row, 0], zs[:, row], strict=True):
            optimiser.zero_grad()
            (denoiser(x + sigma * z, sigma.flatten()) - x).square().sum().backward()
            optimiser.step()
        torch.testing.assert_close(purifier(image, NOISE)[row : row + 1], to_pixel(x.detach()), rtol=0, atol=1e-12)


def test_normalised_steps_have_the_length_of_lr(image):
    purifier = LikelihoodMaximisation(mixture(), 1, ascent=GradientAscent(0.05, normalised=True))
    moved = to_model(purifier(image, NOISE)) - to_model(image)
    torch.testing.assert_close(moved.square().flatten(1).mean(1).sqrt(), torch.full((3,), 0.05, dtype=F64))


def test_a_distilled_step_follows_the_score(image):
    """E_z (D(x + sigma z) - x) = sigma^2 E_z score: for Gaussian data the residual itself, 2 lr w r, without the a."""
    purifier = LikelihoodMaximisation(gaussian(), 3, ascent=GradientAscent(0.05, draws=2), distilled=True)
    x = to_model(image)
    for sigma, z in zip(*drawn(purifier), strict=True):
        a = sigma**2 / (STD**2 + sigma**2)
        x = x + 2 * 0.05 * (-a * (x[:, None] - MEAN) + (1 - a) * sigma * z).mean(1)
    torch.testing.assert_close(purifier(image, NOISE), to_pixel(x), rtol=0, atol=1e-12)
    assert purifier.differentiated_twice == ()


@pytest.mark.parametrize("ascent", ASCENTS)
def test_projection(ascent, image):
    """Within eta of the input, in pixels, and in [0,1]; a large eta changes nothing."""
    image = image.clone()
    image[0, 0, 0] = torch.tensor([0.0, 1.0, 1.0], dtype=F64)
    free, wide, held = (
        LikelihoodMaximisation(gaussian(), 5, eta=eta, ascent=ASCENTS[ascent]()) for eta in (None, 1.0, "8/255")
    )
    purified = held(image, NOISE)
    assert float((purified - image).abs().max()) == pytest.approx(8 / 255, abs=1e-12)
    assert float((free(image, NOISE) - image).abs().max()) > 0.05
    torch.testing.assert_close(free(image, NOISE), wide(image, NOISE), rtol=0, atol=1e-12)
    strong = LikelihoodMaximisation(gaussian(), 1, ascent=GradientAscent(20.0, normalised=True))(image, NOISE)
    assert (float(strong.min()), float(strong.max())) == (0.0, 1.0)


@pytest.mark.parametrize("ascent", ASCENTS)
def test_rows_do_not_depend_on_their_batch(ascent, image):
    purifier = LikelihoodMaximisation(mixture(), ascent=ASCENTS[ascent](), eta=0.2)
    rows = torch.cat([purifier(image[b : b + 1], NOISE.rows(slice(b, b + 1))) for b in (2, 0, 1)])
    torch.testing.assert_close(rows, purifier(image, NOISE)[[2, 0, 1]], rtol=0, atol=1e-12)
    assert len(purifier(image[:0], NOISE.rows(slice(0, 0)))) == 0


def test_fixed_noise_is_deterministic(image):
    purifier = LikelihoodMaximisation(mixture())
    fixed, other = FixedNoise(purifier, 1), NOISE.draws(2).rows(torch.tensor([1, 3, 5]))
    assert torch.equal(fixed(image, NOISE), fixed(image, other))
    assert not torch.equal(purifier(image, NOISE), purifier(image, other))


@pytest.mark.parametrize("eta", [None, "40/255"])
@pytest.mark.parametrize("gradient", ["full", "checkpoint"])
@pytest.mark.parametrize("ascent", ASCENTS)
def test_gradients_of_a_purification(ascent, gradient, eta, image):
    purifier = LikelihoodMaximisation(mixture(), 3, eta=eta, ascent=ASCENTS[ascent](), gradient=gradient)
    weight = torch.linspace(-2, 2, 27, dtype=F64).sin().view(9, 3)
    leaf = image[:2].requires_grad_()
    torch.autograd.gradcheck(lambda x: torch.tanh(purifier(x, NOISE.rows(slice(0, 2))).flatten(1) @ weight), leaf)


@pytest.mark.parametrize("distilled", [False, True])
@pytest.mark.parametrize("ascent", ASCENTS)
def test_recomputed_gradients_are_those_of_the_full_graph(ascent, distilled, image):
    settings = {"eta": "20/255", "ascent": ASCENTS[ascent](), "distilled": distilled}
    leaf = image.requires_grad_()
    weight = NOISE.normal(7, SHAPE).to(F64)
    found = []
    for gradient in ("full", "checkpoint"):
        purified = LikelihoodMaximisation(mixture(), gradient=gradient, **settings)(leaf, NOISE)
        found.append((purified.detach(), *torch.autograd.grad((purified * weight).sum(), leaf)))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    assert float((found[0][1] - weight).abs().max()) > 1e-3  # not the identity


@pytest.mark.parametrize("ascent", ASCENTS)
def test_no_bit_depends_on_the_graph(ascent):
    """PyTorch has two formulas for the gradients of SiLU and of group norms, with and without a graph of their own.

    Images are purified alike for a score and in an attack, and ``verify`` accepts every recomputed step.
    """
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.SiLU(), nn.Conv2d(4, 1, 3, padding=1))
    denoiser, found = EDMDenoiser(OfImage(body)), []
    leaf = torch.rand(3, *SHAPE).requires_grad_()
    for gradient in ("full", "checkpoint", Checkpoint(verify=True)):
        purifier = LikelihoodMaximisation(denoiser, ascent=ASCENTS[ascent](), gradient=gradient)
        purified = purifier(leaf, NOISE)
        found.append(torch.stack((purified.detach(), *torch.autograd.grad(purified.square().sum(), leaf))))
        assert torch.equal(found[-1][0], purifier(leaf.detach(), NOISE))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_its_denoiser_is_differentiated_twice_and_its_calls_are_counted():
    """S evaluations of an image, and S more where the steps are recomputed; those of the gradient go backwards."""
    denoiser, leaf = EDMDenoiser(OfImage(nn.Conv2d(1, 1, 1))), torch.rand(3, *SHAPE).requires_grad_()
    purified = Purified(
        LikelihoodMaximisation(denoiser, 4, ascent=AdamAscent(draws=2)), NetworkClassifier(nn.Flatten())
    )
    assert twice_differentiated(purified) == [denoiser]
    for mode, evaluations in ((None, 8), ("full", 8), ("checkpoint", 16)):
        purified.purifier.gradient = as_differentiation(mode or "full")
        with Meter(denoiser) as meter:
            logits = purified(leaf.detach() if mode is None else leaf, NOISE)
            if mode is not None:
                torch.autograd.grad(logits.sum(), leaf)
        assert meter.cost(3)["evaluations"] == evaluations


def test_attention_is_written_out_for_second_derivatives(image):
    """The fused kernels of CUDA have none."""
    seen, denoiser = [], mixture()
    denoiser.register_forward_pre_hook(lambda *_: seen.append(layers._TWICE.is_on))
    LikelihoodMaximisation(denoiser, 2)(image, NOISE)
    assert seen == [True, True]


def test_inference_mode_is_refused_with_a_reason(image):
    """Distilled steps need no gradient, and pass."""
    with torch.inference_mode():
        with pytest.raises(ValueError, match="the likelihood bound needs gradients"):
            LikelihoodMaximisation(mixture())(image, NOISE)
        LikelihoodMaximisation(mixture(), distilled=True)(image, NOISE)


def test_the_gradient_of_gaussian_data_is_the_product_of_the_contractions(image):
    """d x_S / d x_0 = prod_k (1 - 2 lr a_k^2)."""
    purifier, leaf = LikelihoodMaximisation(gaussian(), 5, ascent=GradientAscent(0.3)), image.requires_grad_()
    (found,) = torch.autograd.grad(purifier(leaf, NOISE).sum(), leaf)
    a = drawn(purifier)[0] ** 2 / (STD**2 + drawn(purifier)[0] ** 2)
    expected = (1 - 2 * 0.3 * a**2).prod(0)[:, 0].expand_as(found)
    assert 0.2 < float(expected.mean()) < 0.4
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)


def test_weaker_gradients(image):
    deployed, leaf = LikelihoodMaximisation(mixture())(image, NOISE), image.clone().requires_grad_()
    identity = LikelihoodMaximisation(mixture(), gradient="bpda")(leaf, NOISE)
    assert torch.equal(identity, deployed)
    assert torch.equal(torch.autograd.grad(identity.sum(), leaf)[0], torch.ones_like(leaf))
    with pytest.raises(ValueError, match="Euler-Maruyama"):
        LikelihoodMaximisation(mixture(), gradient="adjoint")


def test_adam_has_finite_gradients_where_the_bound_is_flat():
    """At the mode without noise g = 0: the moments are 0, and their root has no infinite derivative."""
    image = to_pixel(torch.full((1, *SHAPE), MEAN, dtype=F64)).requires_grad_()
    purifier = LikelihoodMaximisation(gaussian(), ascent=AdamAscent(eps=1.0))
    process = purifier.process(image, NOISE.rows(slice(0, 1)))
    x = process.start
    for step in process.steps:
        quiet = type(step)(**{**vars(step), "draws": None})
        x = process.step(quiet, x)
    (found,) = torch.autograd.grad(process.image(x).sum(), image)
    assert bool(found.isfinite().all())


def test_rdc_classifies_and_its_gradient_passes_through_both_parts(image):
    """Purifier and diffusion classifier share one denoiser; finite differences of the logits in float64."""
    denoiser = mixture()
    rdc = Purified(
        LikelihoodMaximisation(denoiser, 2, ascent=GradientAscent(0.1)),
        NoisedDiffusionClassifier(denoiser, 2, 0, "dc", nodes=4),
    ).double()
    leaf = image[:1].requires_grad_()
    rows = NOISE.rows(slice(0, 1))
    assert torch.autograd.gradcheck(lambda x: rdc(x, rows), leaf)
    means = to_pixel(denoiser.mixture.means)
    assert rdc(means, NOISE.rows(slice(0, 2))).argmax(1).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"levels": (0.6, 0.4)}, "low <= high"),
        ({"levels": (0.4, 0.5, 0.6)}, "low <= high"),
        ({"levels": (0.0, 0.5)}, "levels must be a finite number > 0"),
        ({"levels": 0.5}, "levels must be a list"),
        ({"eta": 8}, "eta must be in pixel units, 0 < eta <= 1; got 8. Write 8/255"),
        ({"eta": 0}, "eta must be above 0"),
        ({"steps": 0}, "steps must be an integer >= 1"),
        ({"steps": None}, "steps must be an integer >= 1"),
        ({"weight": "lognormal"}, "weight must be one of flat, elbo"),
        ({"ascent": "adam"}, "ascent must be an AdamAscent or a GradientAscent"),
        ({"distilled": 1}, "distilled must be True or False"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        LikelihoodMaximisation(gaussian(), **settings)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AdamAscent(lr=0.0), "lr must be a finite number > 0"),
        (lambda: AdamAscent(betas=(0.9,)), "betas must be a list of at least 2"),
        (lambda: AdamAscent(betas=(0.9, 1.0)), "each of betas must be a finite number >= 0 and < 1"),
        (lambda: AdamAscent(betas=(0.9, 0.9, 0.9)), "betas must be beta_1 and beta_2"),
        (lambda: GradientAscent(0.1, draws=0), "draws must be an integer >= 1"),
        (lambda: GradientAscent(0.1, normalised=1), "normalised must be True or False"),
    ],
)
def test_impossible_steps_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_levels_that_the_denoiser_does_not_know_are_refused():
    denoiser = gaussian()
    denoiser.sigma_max = 0.5
    with pytest.raises(ValueError, match="meant for"):
        LikelihoodMaximisation(denoiser)
