"""Guided reverse steps against the papers' formulas and an exact world, and gradients through them."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.autograd.gradcheck import GradcheckError

from agdm.guidance import AdversarialGuidance
from agdm.potential import Guidance
from agdm.purifier import AGDM
from common.diffusion.bound_denoiser import BoundDenoiser
from common.diffusion.schedules import DDPM, VP
from common.diffusion.solvers import DDIM, Ancestral, EulerMaruyama, ProbabilityFlowEuler
from common.diffusion.steps import Step
from common.exact import ExactDenoiser, GaussianMixture
from common.noise import Noise
from common.units import to_model
from diffpure.purifier import DiffPure

SHAPE = (1, 2, 3)
EVERY = ["euler_maruyama", "ancestral", "ddim", "probability_flow_euler", "probability_flow_heun", "torchsde"]


def randn(rows, seed=0):
    return torch.randn(rows, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class BayesGuidance(Guidance, nn.Module):
    """∇_x log p(y | x; σ) of a mixture: the guidance of an oracle."""

    def __init__(self, mixture, label):
        super().__init__()
        self.mixture, self.label = mixture, label

    def embed(self, reference, sigma=None):
        return ()

    def gradient_at(self, x, sigma):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            log_p = self.mixture.bayes_logits(x, sigma).gather(1, self.label.expand(len(x))[:, None])
            return torch.autograd.grad(log_p.sum(), x)[0]


@pytest.mark.parametrize("solver", EVERY)
def test_no_guidance_is_diffpure_to_the_bit(denoiser, guidance, solver):
    image, noise = randn(3).sigmoid(), Noise.of(1, torch.tensor([4, 0, 9]))
    plain = DiffPure(denoiser, 0.1, steps=4, solver=solver)(image, noise)
    assert torch.equal(AGDM(denoiser, guidance, 0.1, scale=0.0, steps=4, solver=solver)(image, noise), plain)
    guided = AGDM(denoiser, guidance, 0.1, scale=1.0, steps=4, solver=solver)(image, noise)
    assert (guided - plain).abs().max() > 1e-3


def test_guided_steps_are_the_papers(denoiser, guidance):
    """One step at DDPM index i: with g_t = ∇_{x_t}, ε the denoiser's noise, ᾱ, α, β from the betas themselves."""
    purifier = AGDM(denoiser, guidance, 0.07, scale=2.0, steps=1)
    xt, z, reference, i = randn(3), randn(3, 1), randn(3, 2), 69
    beta = torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64)
    alpha_bar = (1 - beta).cumprod(0)
    sigma = (1 / alpha_bar[i] - 1).sqrt()
    denoise = purifier.bind(reference, Noise.of(0, torch.arange(3)))
    x = xt / alpha_bar[i].sqrt()
    eps = (x - denoiser(x, sigma)) / sigma
    g = 2.0 * guidance.gradient(x, sigma, reference) / alpha_bar[i].sqrt()  # ∇_{x_t} = ∇_x / s
    mu = (xt - beta[i] / (1 - alpha_bar[i]).sqrt() * eps) / (1 - beta[i]).sqrt()

    (step,) = Step.between(DDPM(), torch.tensor([0.070, 0.069], dtype=torch.float64), xt, {1: z})
    step = replace(step, last=False)
    ancestral = Ancestral("fixed_large")(step, xt, denoise)
    torch.testing.assert_close(ancestral, mu + beta[i] * g / (1 - beta[i]).sqrt() + beta[i].sqrt() * z)
    paper = mu + beta[i] * g + beta[i].sqrt() * z
    assert (ancestral - paper).abs().max() < beta[i] ** 2 * g.abs().max()  # β/√α - β < β² here

    eps_hat = eps - (1 - alpha_bar[i]).sqrt() * g
    x0_hat = (xt - (1 - alpha_bar[i]).sqrt() * eps_hat) / alpha_bar[i].sqrt()
    ddim = alpha_bar[i - 1].sqrt() * x0_hat + (1 - alpha_bar[i - 1]).sqrt() * eps_hat
    torch.testing.assert_close(DDIM()(step, xt, denoise), ddim)

    rate, h = 0.1 + 19.9 * 0.07, 0.01
    decay = math.exp(-(0.1 * 0.07 + 19.9 * 0.07**2 / 2))  # s² = exp(-∫β)
    x, sigma = xt / decay**0.5, torch.tensor((1 / decay - 1) ** 0.5, dtype=torch.float64)
    score = (denoiser(x, sigma) * decay**0.5 - xt) / (1 - decay)
    g = 2.0 * guidance.gradient(x, sigma, reference) / decay**0.5
    (step,) = Step.between(VP(), torch.tensor([0.07, 0.07 - h], dtype=torch.float64), xt, {1: z})
    stochastic = xt + (rate / 2 * xt + rate * (score + g)) * h + (rate * h) ** 0.5 * z
    torch.testing.assert_close(EulerMaruyama()(step, xt, denoise), stochastic)
    flow = xt + (rate / 2 * xt + rate / 2 * (score + g)) * h  # half the guidance
    torch.testing.assert_close(ProbabilityFlowEuler()(step, xt, denoise), flow)


def test_true_class_likelihood_turns_the_denoiser_into_the_conditional_one(denoiser):
    """D + σ² ∇ log p(y|x) = D(·, y), Bayes' rule, at every level; scale s is the power p(y|x)^s."""
    x, label, sigma = randn(5), torch.tensor([0, 1, 2, 0, 2]), torch.tensor([0.05, 0.2, 0.5, 1.0, 3.0]).double()
    guidance, noise = BayesGuidance(denoiser.mixture, label), Noise.of(0, torch.arange(5))
    guided, halved = (AGDM(denoiser, guidance, 0.1, scale).bind(x, noise)(x, sigma) for scale in (1.0, 0.5))
    torch.testing.assert_close(guided, denoiser(x, sigma, label), rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(halved, (denoiser(x, sigma) + denoiser(x, sigma, label)) / 2, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("solver", [EulerMaruyama(), Ancestral(), ProbabilityFlowEuler(), DDIM()])
def test_guided_moments_converge_to_the_exact_conditional_ones(solver):
    """One Gaussian N(m, v) per class: a guided step is affine, x -> a x + b + c z, so mean and variance of the whole
    guided process follow exactly, without sampling. Started from the law of x_{t*} given y they must end in that of
    x_{t_end} given y, with an error that falls to first order: by 2 when the steps are doubled."""
    mean, variance, t_star, t_end = -0.4, 0.3**2, 0.4, 1e-3
    means, stds = torch.tensor([[0.5, mean], [0.2, variance**0.5]], dtype=torch.float64)
    mixture = GaussianMixture(means.view(2, 1, 1, 1), stds)
    schedule = VP()

    def law(t):
        s, sigma = (float(level(torch.tensor(t, dtype=torch.float64))) for level in (schedule.scale, schedule.sigma))
        return s * mean, s**2 * (variance + sigma**2)

    def error(steps):
        oracle = BayesGuidance(mixture, torch.tensor([1]))
        purifier = AGDM(ExactDenoiser(mixture), oracle, t_star, steps=steps, t_end=t_end)
        m, v = law(t_star)
        probe, z = (torch.tensor(values).double().view(3, 1, 1, 1) for values in ([0.0, 1.0, 0.0], [0.0, 0.0, 1.0]))
        denoise, draws = purifier.bind(probe, Noise.of(0, torch.arange(3))), dict.fromkeys(range(1, steps + 1), z)
        for step in Step.between(schedule, purifier.grid.nodes, probe, draws if solver.stochastic else None):
            zero, one, kick = solver(replace(step, last=False), probe, denoise)
            b, a, c = float(zero), float(one - zero), float(kick - zero)
            m, v = a * m + b, a**2 * v + c**2
        exact = law(t_end)
        return torch.tensor([m - exact[0], v - exact[1]]).double()

    coarse, fine = (error(steps).abs() for steps in (200, 400))
    assert (fine < 0.004).all()
    assert (((coarse / fine - 2).abs() < 0.1) | (fine < 1e-12)).all()


class Constant(nn.Module):
    """The same gradient everywhere, of length one."""

    def gradient(self, x, sigma, reference):
        return torch.full_like(x, 6**-0.5)


@pytest.mark.parametrize(("variance", "shares"), [(1.0, 0.514), (0.04, 0.716)])
def test_guidance_acts_half_as_strongly_in_the_flow_and_ddim(variance, shares):
    """N(0, v I) and a constant g, t_star 0.1. In terms of τ = σ² the mean obeys dm = (m/(v+τ) - g) dτ in the SDE and
    DDPM, dm = ½ (...) dτ in the flow and DDIM, so that guidance moves the end by

        v g ln r    and    v g (√r - 1),    r = (v + τ*)/v.

    At once the second is half of the first; over a whole path the flow contracts less, and keeps more: 0.51 of it where
    the noise is small beside the data (v = 1), 0.72 where it is not. Within 2% of it at 200 steps."""
    mixture = GaussianMixture(torch.zeros(1, *SHAPE).double(), math.sqrt(variance))
    image, noise, tau = randn(2).sigmoid(), Noise.of(1, torch.tensor([4, 0])), math.expm1(0.1 * 0.1 + 19.9 * 0.1**2 / 2)
    r = (variance + tau) / variance
    whole, half = variance * math.log(r), variance * (math.sqrt(r) - 1)
    assert half / whole == pytest.approx(shares, abs=5e-4)
    displacements = {"euler_maruyama": whole, "ancestral": whole, "ddim": half, "probability_flow_euler": half}
    for solver, expected in displacements.items():
        settings = {"steps": 200, "solver": solver, "t_end": 0.0 if solver in ("ancestral", "ddim") else 1e-6}
        plain, moved = (AGDM(ExactDenoiser(mixture), Constant(), 0.1, scale, **settings) for scale in (0.0, 0.3))
        displacement = 2 * (moved(image, noise) - plain(image, noise)) / 0.3
        torch.testing.assert_close(displacement, torch.full_like(displacement, expected / 6**0.5), rtol=0.02, atol=0)


class DetachedReference(AGDM):
    def bind(self, x0, noise):
        return super().bind(x0.detach(), noise)


class DetachedGuidance(AGDM):
    def bind(self, x0, noise):
        guided = super().bind(x0, noise)

        def denoise(x, sigma):
            plain = self.denoiser(x, sigma)
            return plain + (guided(x, sigma) - plain).detach()

        return BoundDenoiser(denoise)


def logits(purifier):
    """image -> logits of a smooth classifier behind ``purifier``, always with the same noise."""
    noise, weight = Noise.of(3, torch.tensor([2, 7])), randn(4, 5).flatten(1)
    return lambda image: torch.tanh(to_model(purifier(image, noise))).flatten(1) @ weight.T


@pytest.mark.parametrize("solver", ["euler_maruyama", "ancestral", "probability_flow_heun"])
@pytest.mark.parametrize("gradient", ["full", "checkpoint"])
def test_gradient_from_image_to_logits(denoiser, guidance, gradient, solver):
    purifier = AGDM(denoiser, guidance, 0.3, 1.0, steps=3, solver=solver, gradient=gradient)
    image = randn(2).sigmoid().requires_grad_()
    assert torch.autograd.gradcheck(logits(purifier), image)


@pytest.mark.parametrize("mistake", [DetachedReference, DetachedGuidance])
@pytest.mark.parametrize("gradient", ["full", "checkpoint"])
def test_detached_paths_fail_gradcheck(denoiser, guidance, mistake, gradient):
    purifier = mistake(denoiser, guidance, 0.3, 1.0, steps=3, gradient=gradient)
    image = randn(2).sigmoid().requires_grad_()
    with pytest.raises(GradcheckError):
        torch.autograd.gradcheck(logits(purifier), image)


def test_rows_do_not_depend_on_their_batch(denoiser, guidance):
    image, index = randn(4).sigmoid(), torch.tensor([8, 1, 5, 3])
    purifier = AGDM(denoiser, guidance, 0.1, 1.0, steps=5)
    alone = [purifier(image[b : b + 1], Noise.of(0, index[b : b + 1])) for b in range(4)]
    torch.testing.assert_close(purifier(image, Noise.of(0, index)), torch.cat(alone), rtol=1e-10, atol=1e-12)


def test_start_ratio_in_closed_form(linear):
    """D = 0 (a point mass at 0) and an mse of A x: ‖s σ² · 2/F AᵀA (x - x')‖ / ‖x‖ with φ blind to σ."""

    class Blind(linear):
        def forward(self, x, sigma):
            return super().forward(x, torch.zeros_like(sigma))

    phi, image, noise = Blind(6), randn(3).sigmoid(), Noise.of(0, torch.arange(3))
    denoiser = ExactDenoiser(GaussianMixture(torch.zeros(1, *SHAPE).double(), 0.0))
    purifier = AGDM(denoiser, AdversarialGuidance(phi, 1.0, 0.0, "none", "mse"), 0.1, scale=0.4)
    variance = math.expm1(0.1 * 0.1 + 19.9 * 0.1**2 / 2)
    n = variance**0.5 * noise.normal(0, SHAPE).double().flatten(1)
    guided = 0.4 * variance * 2 / 5 * (n @ phi.A.T @ phi.A).norm(dim=1)
    x = to_model(image).flatten(1) + n
    torch.testing.assert_close(purifier.start_ratio(image, noise), guided / x.norm(dim=1))


def test_guidance_is_frozen_and_grad_mode_is_respected(denoiser, guidance):
    guidance.requires_grad_(True)
    purifier = AGDM(denoiser, guidance, 0.1, 1.0, steps=2)
    assert not any(parameter.requires_grad for parameter in purifier.parameters())
    assert not purifier.train().guidance.network.training
    image = randn(2).sigmoid().requires_grad_()
    with torch.no_grad():
        assert not purifier(image).requires_grad
    with torch.inference_mode(), pytest.raises(ValueError, match="inference_mode=False"):
        purifier(image)


@pytest.mark.parametrize("scale", [-1.0, math.inf, math.nan])
def test_impossible_scales_are_refused(denoiser, guidance, scale):
    with pytest.raises(ValueError, match="scale must be a finite number >= 0"):
        AGDM(denoiser, guidance, 0.1, scale=scale)


def test_plain_objects_with_a_gradient_are_guidances():
    """The contract's ``gradient(x, sigma, reference)`` of a plain object is the same as with an embedding."""

    class Pull:
        def gradient(self, x, sigma, reference):
            return (reference - x) / 4

    class TwoParts(Guidance):
        def embed(self, reference, sigma=None):
            return (2 * reference,)

        def gradient_at(self, x, sigma, doubled):
            return (doubled / 2 - x) / 4

    image, noise = torch.rand(3, 1, 4, 4, dtype=torch.float64), Noise.of(0, torch.arange(3))
    mixture = ExactDenoiser(GaussianMixture(torch.zeros(1, 1, 4, 4, dtype=torch.float64), 0.5))
    results = []
    for guidance in (Pull(), TwoParts()):
        leaf = image.clone().requires_grad_()
        purified = AGDM(mixture, guidance, t_star=0.2, steps=4)(leaf, noise)
        results += [purified, *torch.autograd.grad(purified.square().sum(), leaf)]
    torch.testing.assert_close(results[0], results[2])
    torch.testing.assert_close(results[1], results[3])
    with pytest.raises(ValueError, match="gradient"):
        AGDM(mixture, object(), t_star=0.2)
