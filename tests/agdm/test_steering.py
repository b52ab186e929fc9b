"""Variants of guided steps: the papers' formulas, an exact world, and finite differences."""

import math

import pytest
import torch
from torch import nn
from torch.autograd.gradcheck import GradcheckError

from agdm.potential import Guidance, Potential
from agdm.purifier import AGDM
from agdm.steering import Steering
from common.diffusion.modes import Surrogate
from common.diffusion.schedules import DDPM, VP
from common.diffusion.solvers import Ancestral, EulerMaruyama
from common.diffusion.steps import Step
from common.exact import ExactDenoiser, GaussianMixture
from common.noise import Noise
from common.records.fingerprint import identify
from common.robustness.classifiers import NetworkClassifier, Purified
from common.robustness.gradient_check.classifier_check import GradientCheck, failure_message
from common.units import to_model

SHAPE = (1, 2, 3)
LARGE = Ancestral("fixed_large")
VARIANTS = {
    "diffused": Steering("diffused"),
    "independent": Steering("independent"),
    "mean": Steering(at="mean"),
    "denoised": Steering(at="denoised"),
    "sigma": Steering(form="sigma"),
    "sigma at the mean, diffused": Steering("diffused", "mean", "sigma"),
    "sigma, denoised": Steering(at="denoised", form="sigma"),
}
every = pytest.mark.parametrize("steering", VARIANTS.values(), ids=VARIANTS)


def randn(rows, seed=0):
    return torch.randn(rows, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Pull(Potential):
    """-w |x - x'|² / 2, whatever the level: the gradient is w (x' - x)."""

    def __init__(self, weight=1.0):
        super().__init__()
        self.weight, self.levels, self.references = weight, [], []

    def embed(self, reference, sigma=None):
        self.references.append((reference, sigma))
        return (reference,)

    def log_potential(self, x, sigma, *embedding):
        self.levels.append(float(sigma.max()))
        return -self.weight * (x - embedding[0]).square().flatten(1).sum(1) / 2


class Bayes(Potential):
    """log p(y | x; σ) of a mixture: the guidance of an oracle."""

    def __init__(self, mixture, label):
        super().__init__()
        self.mixture, self.label = mixture, label

    def embed(self, reference, sigma=None):
        return ()

    def log_potential(self, x, sigma, *embedding):
        return self.mixture.bayes_logits(x, sigma)[:, self.label]


def step(purifier, x, reference, draws=None, k=1):
    """Step k of the purifier from the state x, guided towards ``reference``, with the noise ``draws[k]``."""
    sampler, noise = purifier.sampler(), Noise.of(0, torch.arange(len(x)))
    steps = Step.between(sampler.schedule, sampler.grid.nodes, x, draws)
    return sampler.solver(steps[k - 1], x, purifier.bind(reference, noise))


# ---- one step ----


@pytest.mark.parametrize("variance", ["fixed_large", "fixed_small"])
@pytest.mark.parametrize("at", ["x", "mean", "denoised"])
def test_the_papers_step(denoiser, guidance, at, variance):
    """μ + Σ_t g + √Σ_t z at DDPM index i, all of it from the betas: Σ_t = β_t or β̃_t, g the gradient in x_t (in
    x_{t-1} at the mean, which is an x_{t-1})."""
    steering, solver = Steering(at=at, form="sigma"), Ancestral(variance)
    purifier = AGDM(denoiser, guidance, 0.07, 2.0, 2, solver, schedule=DDPM(), t_end=0.068, steering=steering)
    xt, z, reference, i = randn(3), randn(3, 1), randn(3, 2), 69
    beta = torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64)
    alpha_bar = (1 - beta).cumprod(0)
    root, sigma, before = alpha_bar[i].sqrt(), (1 / alpha_bar[i] - 1).sqrt(), alpha_bar[i - 1]
    small = beta[i] * (1 - before) / (1 - alpha_bar[i])
    big_sigma = beta[i] if variance == "fixed_large" else small
    eps = (xt / root - denoiser(xt / root, sigma)) / sigma
    mu = (xt - beta[i] / (1 - alpha_bar[i]).sqrt() * eps) / (1 - beta[i]).sqrt()
    if at == "x":
        g = guidance.gradient(xt / root, sigma, reference) / root
    elif at == "mean":
        g = guidance.gradient(mu / before.sqrt(), (1 / before - 1).sqrt(), reference) / before.sqrt()
    else:
        leaf = xt.clone().requires_grad_()
        likeness = guidance.log_potential(denoiser(leaf / root, sigma), 0 * sigma, *guidance.embed(reference))
        (g,) = torch.autograd.grad(likeness.sum(), leaf)
    result = step(purifier, xt, reference, {1: z})
    torch.testing.assert_close(result, mu + big_sigma * 2.0 * g + big_sigma.sqrt() * z)


def test_all_forms_agree_to_first_order(denoiser, guidance):
    """Displacements Σ_t g of one step differ from D̂'s by a share O(β): half as much in half the step."""
    forms = [
        (LARGE, Steering(form="sigma")),
        (LARGE, Steering(at="mean", form="sigma")),
        (Ancestral(), Steering(form="sigma")),
        (Ancestral(), Steering(at="mean")),
        (EulerMaruyama(), Steering()),
    ]
    xt, reference = randn(3), randn(3, 2)

    def differences(h):
        settings = {"t_star": 0.2, "scale": 2.0, "steps": 1, "t_end": 0.2 - h}

        def displacement(solver, steering):
            purifier = AGDM(denoiser, guidance, solver=solver, steering=steering, **settings)
            (first,) = Step.between(VP(), purifier.grid.nodes, xt)
            return step(purifier, xt, reference) - solver(first, xt, purifier.denoiser)

        exact = displacement(Ancestral(), Steering())
        return torch.stack([(displacement(*form) - exact).norm() / exact.norm() for form in forms])

    coarse, fine, finest = (differences(0.2 * 2.0**-k) for k in (10, 11, 12))
    assert (finest < 0.001).all()
    torch.testing.assert_close(coarse / fine, torch.full((5,), 2.0).double(), atol=0.05, rtol=0)
    torch.testing.assert_close(fine / finest, torch.full((5,), 2.0).double(), atol=0.03, rtol=0)


def test_at_the_denoised_image_in_closed_form():
    """One Gaussian N(0, v): D = a x, a = v/(v + σ²), D̂ = D + scale σ² a w (x' - D); guidance is evaluated at σ = 0."""
    v, w, scale = 0.3, 0.7, 2.0
    mixture, guide = GaussianMixture(torch.zeros(1, *SHAPE).double(), math.sqrt(v)), Pull(w)
    purifier = AGDM(ExactDenoiser(mixture), guide, 0.3, scale, steering=Steering(at="denoised"))
    x, reference, sigma = randn(3), randn(3, 1), torch.tensor([0.1, 0.4, 2.0]).double()
    a, row = (v / (v + sigma**2)).view(3, 1, 1, 1), sigma.view(3, 1, 1, 1)
    expected = a * x + scale * row**2 * a * w * (reference - a * x)
    torch.testing.assert_close(purifier.bind(reference, Noise.of(0, torch.arange(3)))(x, sigma), expected)
    assert guide.levels == [0.0]


# ---- the reference ----


@pytest.mark.parametrize("reference", ["clean", "diffused", "independent"])
def test_the_reference_is_at_the_states_level(denoiser, reference):
    """x' + σ n at the level of every step, with the noise of the start or other; or x' itself, once."""
    guide, noise, image = Pull(), Noise.of(3, torch.arange(3)), randn(3).sigmoid()
    purifier = AGDM(denoiser, guide, 0.2, 0.5, steps=4, steering=Steering(reference))
    purifier(image, noise)
    x0 = to_model(image)
    if reference == "clean":
        assert len(guide.references) == 1
        torch.testing.assert_close(guide.references[0][0], x0)
        return
    levels = purifier.sampler().sigmas()
    source = noise if reference == "diffused" else noise.stream("reference")
    assert len(guide.references) == 4
    for (diffused, sigma), level in zip(guide.references, levels, strict=True):
        torch.testing.assert_close(sigma, level.expand(3))
        torch.testing.assert_close(diffused, x0 + level * source.normal(0, SHAPE).double())


def test_shared_noise_gives_no_guidance_at_the_start(denoiser):
    image, noise = randn(3).sigmoid(), Noise.of(3, torch.arange(3))
    shared, other = (
        AGDM(denoiser, Pull(), 0.2, 0.5, steps=4, steering=Steering(reference)).step_ratios(image, noise)
        for reference in ("diffused", "independent")
    )
    assert shared[0].max() < 1e-12
    assert shared[1:].min() > 1e-3
    assert other.min() > 1e-3


@every
def test_rows_do_not_depend_on_their_batch(denoiser, guidance, steering):
    image, index = randn(3).sigmoid(), torch.tensor([8, 1, 5])
    purifier = AGDM(denoiser, guidance, 0.1, 1.0, steps=3, solver="ancestral", steering=steering)
    alone = [purifier(image[b : b + 1].repeat(2, 1, 1, 1), Noise.of(0, index[b : b + 1]).draws(2)) for b in range(3)]
    together = purifier(image.repeat_interleave(2, 0), Noise.of(0, index).draws(2))
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-10, atol=1e-12)
    assert (together[0] - together[1]).abs().max() > 1e-3


@pytest.mark.parametrize(("steering", "calls"), [(Steering(), 6), (Steering(at="mean"), 6), (Steering("diffused"), 10)])
def test_a_clean_reference_is_embedded_once(denoiser, guidance, steering, calls):
    """Five steps: five looks at the state and one at x'; a diffused reference changes, and is looked at as often."""
    seen = []
    guidance.network.register_forward_hook(lambda module, args, result: seen.append(args[1]))
    AGDM(denoiser, guidance, 0.1, 1.0, steps=5, solver="ancestral", steering=steering)(randn(2).sigmoid())
    assert len(seen) == calls


# ---- the whole process ----


def moments(purifier, density, x):
    """Mean and variance at the end of a process of single numbers that starts with ``density`` on the grid x.

    Step k is x -> m_k(x) + c_k z, so the density of its result is the integral of N(. ; m_k(x), c_k²) over the one
    before: no sampling. All c_k but the last are wider than two points of the grid, where the trapezium rule errs by
    e^{-2 π² 4}; the last step's moments need no density.
    """
    h, images, last = x[1] - x[0], x.view(-1, 1, 1, 1), purifier.grid.steps
    for k in range(1, last + 1):
        mean = step(purifier, images, images, k=k).flatten()
        c = (step(purifier, images, images, {k: torch.ones(1).double()}, k).flatten() - mean)[0]
        if k < last:
            assert c > 2 * h
            density = (-((x[:, None] - mean) ** 2) / (2 * c**2)).exp() @ density * h / (math.sqrt(2 * math.pi) * c)
    first = (density * mean).sum() * h
    return torch.stack((first, (density * (mean**2 + c**2)).sum() * h - first**2))


@pytest.mark.parametrize(
    ("solver", "steering"),
    [
        (EulerMaruyama(), Steering()),
        (Ancestral(), Steering()),
        (LARGE, Steering(form="sigma")),
        (LARGE, Steering(at="mean", form="sigma")),
        (Ancestral(), Steering(at="mean")),
    ],
)
def test_guided_moments_of_a_mixture_are_the_conditional_ones(solver, steering):
    """Class 1 is two of three Gaussians. From the law of x_{t*} given the class the guided process must come, as steps
    get shorter, to mean and variance of x_{t_end} given the class. The error is of first order, and what Richardson's
    extrapolation leaves of it of second: at most 0.0019 here, 0.0005 at twice the steps. Without guidance the variance
    is 0.27 off."""
    means, stds = torch.tensor([0.2, -0.9, 0.7]).double(), torch.tensor([0.25, 0.3, 0.2]).double()
    weights, labels = torch.tensor([0.5, 0.2, 0.3]).double(), torch.tensor([0, 1, 1])
    mixture = GaussianMixture(means.view(3, 1, 1, 1), stds, weights, labels)
    t_star, t_end, schedule, x = 0.3, 0.05, VP(), torch.linspace(-5, 5, 401, dtype=torch.float64)

    def law(t):
        t = torch.tensor(t).double()
        s, sigma = schedule.scale(t), schedule.sigma(t)
        share = weights[1:] / weights[1:].sum()
        centres, variances = s * means[1:], s**2 * (stds[1:] ** 2 + sigma**2)
        each = (-((x[:, None] - centres) ** 2) / (2 * variances)).exp() / (2 * math.pi * variances).sqrt()
        mean = (share * centres).sum()
        return (each * share).sum(1), torch.stack((mean, (share * (variances + centres**2)).sum() - mean**2))

    def error(steps, scale=1.0):
        purifier = AGDM(ExactDenoiser(mixture), Bayes(mixture, 1), t_star, scale, steps, solver, t_end=t_end, **how)
        return moments(purifier, law(t_star)[0], x) - law(t_end)[1]

    how = {"steering": steering}
    coarse, fine = error(30), error(60)
    assert (coarse.abs() < 0.03).all()
    assert (2 * fine - coarse).abs().max() < 0.0025
    assert error(30, scale=0.0).abs().max() > 0.25


# ---- gradients ----


def logits(purifier):
    """image -> logits of a smooth classifier behind ``purifier``, always with the same noise."""
    noise, weight = Noise.of(3, torch.tensor([2, 7])), randn(4, 5).flatten(1)
    return lambda image: torch.tanh(to_model(purifier(image, noise))).flatten(1) @ weight.T


@every
def test_gradient_from_image_to_logits(denoiser, guidance, steering):
    purifier = AGDM(denoiser, guidance, 0.3, 1.0, 2, "ancestral", steering=steering)
    image = randn(2).sigmoid().requires_grad_()
    assert torch.autograd.gradcheck(logits(purifier), image, fast_mode=True)


class DetachedReference(AGDM):
    def bind(self, x0, noise):
        return super().bind(x0.detach(), noise)


class Wrapped(Guidance):
    def __init__(self, guidance):
        self.guidance = guidance

    def embed(self, reference, sigma=None):
        return self.guidance.embed(reference, sigma)


class DetachedGradient(Wrapped):
    def gradient_at(self, x, sigma, *embedding):
        return self.guidance.gradient_at(x, sigma, *embedding).detach()


class DetachedPoint(Wrapped):
    def gradient_at(self, x, sigma, *embedding):
        return self.guidance.gradient_at(x.detach(), sigma, *embedding)


class DetachedGuide(AGDM):
    def __init__(self, denoiser, guidance, *args, **kwargs):
        super().__init__(denoiser, DetachedGradient(guidance), *args, **kwargs)


class DetachedState(AGDM):
    def __init__(self, denoiser, guidance, *args, **kwargs):
        super().__init__(denoiser, DetachedPoint(guidance), *args, **kwargs)


@every
@pytest.mark.parametrize("mistake", [DetachedReference, DetachedGuide, DetachedState])
def test_detached_paths_fail_gradcheck(denoiser, guidance, mistake, steering):
    purifier = mistake(denoiser, guidance, 0.3, 1.0, 2, "ancestral", steering=steering)
    image = randn(2).sigmoid().requires_grad_()
    with pytest.raises(GradcheckError):
        torch.autograd.gradcheck(logits(purifier), image, fast_mode=True)


@every
def test_variants_pass_the_gradient_checks(denoiser, guidance, steering):
    head = NetworkClassifier(nn.Sequential(nn.Flatten(), nn.Linear(6, 3)))
    purifier = AGDM(denoiser.float(), guidance.float(), 0.3, 1.0, 3, "ancestral", steering=steering)
    image, label, index = randn(1).sigmoid().float(), torch.tensor([0]), torch.tensor([5])
    records = GradientCheck()(Purified(purifier, head).freeze(), (image, label, index))
    assert failure_message(records) == ""
    assert "guidance path" in [finding.name for finding in records[0].findings]


@every
def test_nothing_is_recorded_without_need(denoiser, guidance, steering):
    purifier = AGDM(denoiser, guidance, 0.3, 1.0, 2, "ancestral", steering=steering)
    image, noise = randn(2).sigmoid(), Noise.of(0, torch.arange(2))
    plain = purifier(image, noise)
    assert not plain.requires_grad
    torch.testing.assert_close(purifier(image.requires_grad_(), noise), plain, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        assert not purifier(image, noise).requires_grad


# ---- calibration ----


def test_step_ratios_in_closed_form():
    """N(0, v) and a pull of w: Euler-Maruyama moves x by h β (scale g/s), by -h (-½ β x - β score) without it."""
    v, w, scale, t, h = 0.3, 0.7, 2.0, 0.2, 0.05
    mixture = GaussianMixture(torch.zeros(1, *SHAPE).double(), math.sqrt(v))
    image, noise = randn(3).sigmoid(), Noise.of(0, torch.arange(3))
    beta, total = 0.1 + 19.9 * t, 0.1 * t + 19.9 * t**2 / 2
    s, sigma2 = math.exp(-total / 2), math.expm1(total)
    x0 = to_model(image)
    xt = s * (x0 + math.sqrt(sigma2) * noise.normal(0, SHAPE).double())
    guided = h * beta * scale * w * (x0 - xt / s) / s
    plain = h * (beta / 2 * xt - beta * xt / (s**2 * (v + sigma2)))
    purifier = AGDM(ExactDenoiser(mixture), Pull(w), t, scale, 4, t_end=t - 4 * h + 1e-9)
    expected = guided.flatten(1).norm(dim=1) / plain.flatten(1).norm(dim=1)
    torch.testing.assert_close(purifier.step_ratios(image, noise)[0], expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("steering", [Steering(), *VARIANTS.values()])
def test_a_scale_for_a_ratio(denoiser, guidance, steering):
    """``step_ratios`` are proportional to the scale, so that one measurement is enough, at any scale."""
    image, noise = randn(5).sigmoid(), Noise.of(0, torch.arange(5))
    purifier = AGDM(denoiser, guidance, 0.1, 3.0, 4, "ancestral", steering=steering)
    before = purifier.step_ratios(image, noise)
    purifier.scale = purifier.scale_for(0.2, image, noise)
    assert float(purifier.step_ratios(image, noise).median()) == pytest.approx(0.2)
    torch.testing.assert_close(purifier.step_ratios(image, noise), before * purifier.scale / 3)
    assert before.shape == (4, 5)
    assert purifier.start_ratio(image, noise).shape == (5,)


def test_calibration_refuses_bad_ratios_and_zero_guidance(denoiser, guidance):
    image = randn(2).sigmoid()
    with pytest.raises(ValueError, match="ratio must be finite and > 0"):
        AGDM(denoiser, guidance, 0.1).scale_for(0.0, image)
    for purifier in (AGDM(denoiser, guidance, 0.1, scale=0.0), AGDM(denoiser, Pull(0.0), 0.1)):
        with pytest.raises(ValueError, match="calibration needs a guidance that is not zero"):
            purifier.scale_for(0.2, image)


# ---- refusals ----


@pytest.mark.parametrize("wrong", [{"reference": "noisy"}, {"at": "x0"}, {"form": "paper"}])
def test_unknown_names_are_refused(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"{name} must be one of"):
        Steering(**wrong)


def test_a_diffused_reference_of_a_denoised_image_is_refused():
    with pytest.raises(ValueError, match='reference="clean"'):
        Steering("diffused", at="denoised")


def test_a_guidance_that_embeds_clean_images_only_is_refused_a_diffused_one(denoiser):
    class Old(Guidance):
        embeds_noisy = False

        def embed(self, reference):
            return (reference,)

        def gradient_at(self, x, sigma, reference):
            return reference - x

    AGDM(denoiser, Old(), 0.1)
    with pytest.raises(ValueError, match=r"embed\(reference, sigma\)"):
        AGDM(denoiser, Old(), 0.1, steering=Steering("diffused"))


def test_another_way_to_steer_is_another_defence(denoiser, guidance):
    """Records of the one do not continue those of the other."""
    ways = [Steering(), *VARIANTS.values()]
    made = [AGDM(denoiser, guidance, 0.1, solver="ancestral", steering=steering) for steering in ways]
    assert len({identify({"purifier": purifier})[0] for purifier in made}) == len(ways)
    assert identify({"purifier": AGDM(denoiser, guidance, 0.1, solver="ancestral")}) == identify({"purifier": made[0]})


@pytest.mark.parametrize("steering", [Steering(at="mean"), Steering(form="sigma")])
def test_a_step_that_has_no_such_mean_is_refused(denoiser, guidance, steering):
    """By the deployed solver, and by one that stands in for it in an attack."""
    for solver in ("euler_maruyama", "ddim", "probability_flow_heun", "torchsde"):
        with pytest.raises(ValueError, match="ancestral"):
            AGDM(denoiser, guidance, 0.1, steps=4, solver=solver, steering=steering)
    for gradient in (Surrogate(2, solver="ddim"), "adjoint"):
        with pytest.raises(ValueError, match=r"stands in for GuidedAncestral|Euler-Maruyama"):
            AGDM(denoiser, guidance, 0.1, steps=4, solver="ancestral", gradient=gradient, steering=steering)
    AGDM(denoiser, guidance, 0.1, steps=4, solver="ancestral", gradient=Surrogate(2), steering=steering)
