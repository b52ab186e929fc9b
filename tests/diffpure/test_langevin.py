"""Langevin dynamics on Gaussian data: every step is affine, every law is known."""

import math

import pytest
import torch

from common.diffusion.schedules import EDM, VP
from common.diffusion.steps import Step
from common.exact import ExactDenoiser, GaussianMixture
from common.noise import Noise
from diffpure.langevin import Langevin, LangevinDiffPure

F64 = torch.float64
MEAN, STD, SIGMA2, LAMBDA = 0.4, 0.3, 1e-3, 1e-2
B = 0.1 * 0.01 + 19.9 * 0.01**2 / 2  # the VP-SDE's integral of beta up to t = 0.01
SCALE = math.exp(-B / 2)
VARIANCE = SCALE**2 * (STD**2 + math.expm1(B))  # of the data at t = 0.01
RATE = LAMBDA / 2 * (1 / VARIANCE + 1 / SIGMA2)  # the drift is -RATE (x - rest)
NOISE = Noise.of(3, torch.tensor([8, 1, 5]))
SHAPE = (1, 3, 3)


def gaussian(shape: tuple[int, ...] = SHAPE) -> ExactDenoiser:
    return ExactDenoiser(GaussianMixture(torch.full((1, *shape), MEAN, dtype=F64), STD))


def rest(anchor: torch.Tensor) -> torch.Tensor:
    """Fixed point: the pull of the data and that of the anchor cancel."""
    return (SCALE * MEAN / VARIANCE + anchor / SIGMA2) / (1 / VARIANCE + 1 / SIGMA2)


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(3, *SHAPE, dtype=F64, generator=torch.Generator().manual_seed(0))


def test_it_is_the_stochastic_equation_of_the_paper(image):
    """t* = 0.1 in steps of 0.01: x_10 = rest + A^10 (x_a - rest) + eta sqrt(lambda h) sum_j A^(10-j) z_j."""
    a, h = 1 - RATE * 0.01, 0.01
    z = NOISE.normals(range(1, 11), SHAPE).to(F64)
    kicks = sum(a ** (10 - j) * z[j - 1] for j in range(1, 11))
    anchor = 2 * image - 1
    expected = rest(anchor) + a**10 * (anchor - rest(anchor)) + 5 * (LAMBDA * h) ** 0.5 * kicks
    purifier = LangevinDiffPure(gaussian(), 0.1)
    torch.testing.assert_close(2 * purifier(image, NOISE) - 1, expected, rtol=0, atol=1e-9)
    assert purifier.grid.steps == 10
    assert torch.equal(purifier.diffuse(image, NOISE), image)


def test_stationary_law_is_the_product_of_data_and_anchor():
    """At eta = 1, after a long time: N(rest, 1/(1/v + 1/sigma2)), approached to first order in h.

    The step x <- a x + b + c z is read off at three points; its fixed point and variance follow without sampling.
    """

    def law(h: float) -> tuple[float, float]:
        purifier = LangevinDiffPure(gaussian((1, 1, 1)), 0.5, dynamics=Langevin(LAMBDA, 1.0))
        t, anchor = torch.tensor(h, dtype=F64), torch.full((1, 1, 1, 1), -0.3, dtype=F64)

        def step(x: float, z: float) -> float:
            x, z = torch.full_like(anchor, x), torch.full_like(anchor, z)
            (step,) = Step.between(purifier.schedule, torch.stack((t, 0 * t)), x, {1: z})
            return float(purifier.solver(step, x, purifier.bind(anchor, NOISE)))

        b = step(0.0, 0.0)
        a, c = step(1.0, 0.0) - b, step(0.0, 1.0) - b
        return b / (1 - a), c**2 / (1 - a**2)

    limit = 1 / (1 / VARIANCE + 1 / SIGMA2)
    (mean, coarse), (_, fine) = law(0.02), law(0.01)
    assert mean == pytest.approx(float(rest(torch.tensor(-0.3, dtype=F64))), abs=1e-10)
    assert (coarse - limit) / (fine - limit) == pytest.approx(2, rel=0.05)
    assert 2 * fine - coarse == pytest.approx(limit, rel=1e-2)


@pytest.mark.parametrize("gradient", ["full", "checkpoint"])
def test_gradient_reaches_the_image_as_start_and_as_anchor(gradient, image):
    """d x_S / d x_a = A^S + (1 - A^S) w, w the anchor's share of the pull; through the start alone it is A^S."""
    a, weight = (1 - RATE * 0.01) ** 20, (1 / SIGMA2) / (1 / VARIANCE + 1 / SIGMA2)
    purifier = LangevinDiffPure(gaussian(), 0.2, gradient=gradient)
    (found,) = torch.autograd.grad(purifier(image.requires_grad_(), NOISE).sum(), image)
    torch.testing.assert_close(found, torch.full_like(image, a + (1 - a) * weight), rtol=1e-9, atol=0)
    assert weight > 0.9
    assert a < 0.4


@pytest.mark.parametrize("gradient", ["full", "checkpoint"])
def test_image_to_logits(gradient, image):
    means = torch.stack((torch.full(SHAPE, -0.3, dtype=F64), torch.full(SHAPE, 0.4, dtype=F64)))
    denoiser = ExactDenoiser(GaussianMixture(means, 0.4))
    purifier = LangevinDiffPure(denoiser, 0.05, sigma2=0.01, dynamics=Langevin(0.5, 0.3, 0.2), gradient=gradient)
    weight = torch.linspace(-2, 2, 27, dtype=F64).sin().view(9, 3)
    torch.autograd.gradcheck(lambda x: torch.tanh(purifier(x, NOISE).flatten(1) @ weight), image.requires_grad_())


def test_weaker_gradients(image):
    deployed, leaf = LangevinDiffPure(gaussian(), 0.2)(image, NOISE), image.clone().requires_grad_()
    identity = LangevinDiffPure(gaussian(), 0.2, gradient="bpda")(leaf, NOISE)
    assert torch.equal(identity, deployed)
    assert torch.equal(torch.autograd.grad(identity.sum(), leaf)[0], torch.ones_like(leaf))
    with pytest.raises(ValueError, match="fewer steps"):
        LangevinDiffPure(gaussian(), 0.2, gradient="surrogate")
    with pytest.raises(ValueError, match="Euler-Maruyama"):
        LangevinDiffPure(gaussian(), 0.2, gradient="adjoint")


def test_rows_do_not_depend_on_their_batch(image):
    purifier = LangevinDiffPure(gaussian(), 0.1)
    rows = torch.cat([purifier(image[b : b + 1], NOISE.rows(slice(b, b + 1))) for b in (2, 0, 1)])
    torch.testing.assert_close(rows, purifier(image, NOISE)[[2, 0, 1]], rtol=0, atol=1e-12)


def test_other_schedules_have_other_levels(image):
    """EDM's time 0.01 is sigma 0.01: data of variance STD^2 + 1e-4, not scaled."""
    purifier = LangevinDiffPure(gaussian(), 0.01, schedule=EDM(), dynamics=Langevin(LAMBDA, 0.0))
    x = 2 * image - 1
    expected = x - LAMBDA / 2 * 0.01 * (x - MEAN) / (STD**2 + 1e-4)
    torch.testing.assert_close(2 * purifier(image, NOISE) - 1, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Langevin(lambda_ld=0.0), "lambda_ld must be a finite number > 0"),
        (lambda: Langevin(eta=-1.0), "eta must be a finite number >= 0"),
        (lambda: Langevin(t_score=0.0), "t_score must be a finite number > 0"),
        (lambda: LangevinDiffPure(gaussian(), 0.1, sigma2=0.0), "sigma2"),
        (lambda: LangevinDiffPure(gaussian(), 100), "t_star must be"),
        (lambda: LangevinDiffPure(gaussian(), 0.1, steps=0), "steps must be"),
    ],
)
def test_impossible_dynamics_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_level_that_the_denoiser_does_not_know_is_refused():
    denoiser = gaussian()
    denoiser.sigma_min = 0.1
    assert float(VP().sigma(torch.tensor(0.01))) < 0.1
    with pytest.raises(ValueError, match="meant for"):
        LangevinDiffPure(denoiser, 0.1)
