"""Nodes and bounds against formulas that do not share their derivation, and against exact likelihoods."""

import math
from itertools import pairwise

import pytest
import torch

from common.engine.engine import Engine
from common.exact import ExactDenoiser
from common.noise import Noise
from common.units import to_pixel
from ndc.classifier import NoisedDiffusionClassifier
from ndc.likelihood import Bound, chain_ratio, noised_pair, pull_variate, squared_errors
from ndc.nodes import Nodes
from ndc.noise_weights import ELBO, Flat, LogNormal


def test_the_flat_weight_is_one_and_its_equal_nodes_are_equally_wide():
    bound = Bound.of(Nodes(5), Flat(), 0.5, 3.0)
    torch.testing.assert_close(bound.sigma, torch.linspace(0.75, 2.75, 5, dtype=torch.float64))
    torch.testing.assert_close(bound.weight, torch.full((5,), 0.5, dtype=torch.float64))


@pytest.mark.parametrize("weight", [LogNormal(), ELBO()])
def test_equal_nodes_hold_equal_shares_and_know_the_truncated_mean(weight):
    sigma, width = Nodes(12).place(weight, 0.5, 3.0)
    share = weight.density(sigma) * width
    torch.testing.assert_close(share, share[:1].expand(12))
    mass = weight.mass(torch.tensor([0.5, 3.0], dtype=torch.float64))
    assert share.sum().item() == pytest.approx((mass[1] - mass[0]).item(), rel=1e-12)


def test_equal_nodes_average_to_the_truncated_lognormal_mean():
    """E sigma between limits in closed form; midpoints of 400 shares leave O(T^-2) ~ 1e-5."""
    sigma, _ = Nodes(400).place(LogNormal(), 0.5, 3.0)
    normal = torch.distributions.Normal(0.0, 1.0)
    a, b = ((torch.tensor([0.5, 3.0], dtype=torch.float64).log() + 1.2) / 1.2).tolist()
    cdf = {x: normal.cdf(torch.tensor(x, dtype=torch.float64)).item() for x in (a, b, a - 1.2, b - 1.2)}
    mean = math.exp(-1.2 + 0.72) * (cdf[b - 1.2] - cdf[a - 1.2]) / (cdf[b] - cdf[a])
    assert sigma.mean().item() == pytest.approx(mean, rel=2e-5)


@pytest.mark.parametrize(("rule", "order"), [("equal", 2), ("log", 2), ("linspace", 1)])
def test_nodes_integrate_polynomials_with_their_order(rule, order):
    """int_0.5^3 (s^2 - s) ds; the error falls by 2^order when T doubles (10 % for higher orders)."""
    exact = (27 - 0.125) / 3 - (9 - 0.25) / 2
    errors = []
    for count in (64, 128, 256):
        sigma, width = Nodes(count, rule).place(LogNormal(), 0.5, 3.0)
        assert len(sigma) == count
        assert bool((sigma.diff() > 0).all())
        assert 0.5 < sigma[0] < sigma[-1] <= 3.0
        errors.append(abs((width * (sigma**2 - sigma)).sum().item() - exact))
    assert errors[-1] < exact * (1e-2 if order == 1 else 1e-3)
    for coarse, fine in pairwise(errors):
        assert coarse / fine == pytest.approx(2**order, rel=0.1)


def test_linspace_is_a_uniform_grid_and_the_reference_leaves_out_its_last_interval():
    """Right ends of linspace(sigma_tau, 3, 126); the published code calls the network at all of these but the last."""
    grid, step = torch.linspace(0.5, 3.0, 126, dtype=torch.float64), torch.tensor(2.5 / 125, dtype=torch.float64)
    for count, rule, nodes in ((125, "linspace", grid[1:]), (124, "reference", grid[1:-1])):
        sigma, width = Nodes(count, rule).place(LogNormal(), 0.5, 3.0)
        torch.testing.assert_close(sigma, nodes)
        torch.testing.assert_close(width, step.expand(count))


def gaussian_conditional(v_t, v_next, covariance, mean_t, mean_next, x_next):
    """Mean and variance of x_t given x_{t+1}, for a joint Gaussian given by its moments."""
    gain = covariance / v_next
    return mean_t + gain * (x_next - mean_next), v_t - gain * covariance


@pytest.mark.parametrize("sigma_tau", [0.5, 1e-3])
def test_derived_weights_are_the_kl_between_reverse_steps(sigma_tau):
    """KL(q(x_t | x_{t+1}, x_tau) || p(x_t | x_{t+1}, y)) by conditioning joint Gaussians, no formula of the paper."""
    lower = 0.6
    bound = Bound.of(Nodes(7, "linspace"), ELBO(), lower, 3.0, sigma_tau)
    generator = torch.Generator().manual_seed(0)
    x_tau, h, z = torch.randn(3, 4, 1, 1, 5, dtype=torch.float64, generator=generator)
    x_next, target = noised_pair(x_tau, z.expand(7, *z.shape), bound.spread, bound.pull)
    for i, (s, sigma_t) in enumerate(zip(bound.sigma.tolist(), torch.linspace(lower, 3, 8).tolist()[:-1], strict=True)):
        forward = sigma_t**2 - sigma_tau**2
        m_q, v_q = gaussian_conditional(forward, s**2 - sigma_tau**2, forward, x_tau, x_tau, x_next[i])
        m_p, _ = gaussian_conditional(sigma_t**2, s**2, sigma_t**2, h, h, x_next[i])
        kl = (m_q - m_p).square().flatten(1).sum(1) / (2 * v_q)
        loss = bound.weight[i] * (target[i] - h).square().flatten(1).sum(1)
        torch.testing.assert_close(loss, kl, rtol=1e-6, atol=0)  # linspace in float32 above: 1e-7 in sigma_t


def test_practical_epndc_weights_are_rescaled_by_derived_over_plain():
    """w^_t w_t^(tau) / w_t on || m_q - m_p ||^2, with m_q - m_p = (1 - sigma_t^2 / s^2) (target - D)."""
    tau, s, width = 0.5, torch.tensor([0.9, 1.4, 3.0]).double(), torch.tensor([0.1, 0.3, 0.2]).double()
    t = s - width
    derived = (s**2 - tau**2) / (2 * (t**2 - tau**2) * (s**2 - t**2))
    ratio = derived / (width / s**3) * ((s**2 - t**2) / s**2) ** 2
    torch.testing.assert_close(chain_ratio(s, width, tau), ratio)


def test_a_clean_input_recovers_the_plain_elbo_weight():
    """tau -> 0: a step counts int s^-3 ds = (sigma_t^-2 - s^-2) / 2 exactly, w_t = (s - sigma_t) / s^3 nearly."""
    errors = []
    for count in (100, 200):
        bound = Bound.of(Nodes(count, "linspace"), ELBO(), 0.6, 3.0, 1e-7)
        plain = Bound.of(Nodes(count, "linspace"), ELBO(), 0.6, 3.0)
        edges = torch.linspace(0.6, 3.0, count + 1, dtype=torch.float64)
        torch.testing.assert_close(bound.weight, (edges[:-1] ** -2 - edges[1:] ** -2) / 2)
        torch.testing.assert_close(plain.weight, edges.diff() / edges[1:] ** 3)
        errors.append((bound.weight / plain.weight - 1).abs().max().item())
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.05)


def test_the_noisy_bound_refines_to_the_plain_one():
    """At a fixed level the derived weight tends to 1 / sigma^3, which is why midpoint rules need no ratio."""
    width = torch.tensor([0.1, 0.05, 0.025], dtype=torch.float64)
    excess = chain_ratio(torch.full((3,), 1.0, dtype=torch.float64), width, 0.5) - 1
    torch.testing.assert_close(excess[:-1] / excess[1:], torch.full((2,), 2.0, dtype=torch.float64), rtol=0.2, atol=0)


def test_the_noisy_chain_leaves_out_its_reconstruction_step():
    bound = Bound.of(Nodes(5, "linspace"), LogNormal(), 0.5, 3.0, sigma_tau=0.5)
    torch.testing.assert_close(bound.sigma, torch.linspace(0.5, 3, 7, dtype=torch.float64)[2:])
    assert bool(bound.weight.isfinite().all())
    assert len(Bound.of(Nodes(5, "linspace"), LogNormal(), 0.6, 3.0, sigma_tau=0.5)) == 5


def test_target_and_input_carry_independent_noise():
    """x0 + tau n + u z and x0 + tau n - (tau^2 / u) z: the first has variance sigma^2, their covariance is 0."""
    bound = Bound.of(Nodes(6), LogNormal(), 0.5, 3.0, sigma_tau=0.5)
    torch.testing.assert_close(0.5**2 + bound.spread**2, bound.sigma**2)
    torch.testing.assert_close(bound.spread * bound.pull, torch.full((6,), 0.25, dtype=torch.float64))
    clean = Bound.of(Nodes(6), LogNormal(), 0.5, 3.0)
    assert torch.equal(clean.spread, clean.sigma)
    assert not clean.pull.any()


def test_squared_errors_row_by_row(mixture):
    generator = torch.Generator().manual_seed(1)
    xt, target = torch.randn(2, 3, 1, 1, 2, dtype=torch.float64, generator=generator)
    sigma, label = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64), torch.tensor([2, 0, 1])
    errors = squared_errors(ExactDenoiser(mixture)(xt, sigma, label), target)
    assert errors.shape == (3,)
    for i in range(3):
        x0 = mixture.denoiser(xt[i][None], sigma[i], label[i][None])[0]
        torch.testing.assert_close(errors[i], (x0 - target[i]).square().sum())


# Errors of nodes and limits ------------------------------------------------------------------------------------------

X = torch.tensor([-0.6, 0.2], dtype=torch.float64).view(1, 1, 1, 2)


def ratios(logits):
    return logits - logits[0]


def blurred(mixture, rule, x, sigma, sigma_tau):
    """E_z log p_sigma(x + u z | y) up to a constant of all classes, u = sqrt(sigma^2 - sigma_tau^2), (K,)."""
    rows = x + math.sqrt(sigma**2 - sigma_tau**2) * rule.z
    classes = torch.arange(3).repeat(len(rows), 1).T
    return ratios(torch.stack([rule.mean(mixture.log_density(rows, sigma, label)) for label in classes]))


def bounded(mixture, rule, x, bound):
    """The bound with the exact denoiser and E_z by quadrature, up to a constant of all classes, (K,)."""
    t, q, k = torch.cartesian_prod(torch.arange(len(bound)), torch.arange(len(rule)), torch.arange(3)).T
    xt, target = noised_pair(x, rule.z[q], bound.spread[t], bound.pull[t])
    errors = squared_errors(ExactDenoiser(mixture)(xt, bound.sigma[t], k), target).view(len(bound), len(rule), 3)
    return ratios(-torch.einsum("t,q,tqk->k", bound.weight, rule.weight, errors))


RANGES = {"dc": (0.0, 0.3), "epndc": (0.5, 0.5), "epndc-above": (0.5, 0.7)}
RULES = {"log": 2, "equal": 2, "linspace": 1}


@pytest.mark.parametrize(
    ("case", "rule"),
    [(case, rule) for case in RANGES for rule in RULES if (case, rule) != ("epndc", "linspace")],  # that is h ln T
)
def test_dc_and_epndc_converge_to_the_exact_ratio_with_their_order(mixture, hermite, case, rule):
    """From ``lower`` to 5, clean data and noisy. The error of T nodes falls by 2^order when T doubles: limit and rate.

    160 midpoints leave less than 2e-5 nats. 14^2 Hermite nodes err by 1e-8, else the ratios would not be 4 to 1 %. The
    chain from sigma_tau itself is in test_classifier.
    """
    (sigma_tau, lower), order = RANGES[case], RULES[rule]
    quadrature = hermite(14, (1, 1, 2))
    exact = blurred(mixture, quadrature, X, lower, sigma_tau) - blurred(mixture, quadrature, X, 5.0, sigma_tau)
    errors = []
    for count in (40, 80, 160):
        bound = Bound.of(Nodes(count, rule), ELBO(), lower, 5.0, sigma_tau)
        errors.append((bounded(mixture, quadrature, X, bound) - exact).abs().max().item())
    for coarse, fine in pairwise(errors):
        assert coarse / fine == pytest.approx(2**order, rel=0.01 if order == 2 else 0.08)
    assert errors[-1] < (2e-5 if order == 2 else 0.25)


def test_errors_of_the_limits_have_the_documented_order(mixture, hermite):
    """O(lower^2 - sigma_tau^2) and O(upper^-2), on closed forms: 0.06 and 0.0005 nats at last."""
    quadrature, tau = hermite(14, (1, 1, 2)), 0.5
    exact = blurred(mixture, quadrature, X, tau, tau)
    low = [blurred(mixture, quadrature, X, math.sqrt(tau**2 + d), tau) - exact for d in (0.02, 0.01, 0.005)]
    high = [blurred(mixture, quadrature, X, upper, tau) for upper in (10.0, 20.0, 40.0)]
    for errors, factor in ((low, 2), (high, 4)):
        sizes = [error.abs().max().item() for error in errors]
        for coarse, fine in pairwise(sizes):
            assert coarse / fine == pytest.approx(factor, rel=0.05)
    assert low[1].abs().max() < 0.07
    assert high[2].abs().max() < 6e-4


# EPNDC's control variate ----------------------------------------------------------------------------------------------

NOISY = torch.tensor([[0.1, 0.4], [-0.6, 0.2]], dtype=torch.float64).view(2, 1, 1, 2)


def epndc(denoiser, *, control, antithetic=False, count=16, **settings):
    nodes = Nodes(count, antithetic=antithetic, control=control)
    return NoisedDiffusionClassifier(denoiser, 3, 0.25, "epndc", nodes, "elbo", **settings)


def test_the_pull_variate_is_the_random_part_for_a_denoiser_independent_of_z():
    """D(x + u z) = a: then || D - target ||^2 = || a - x ||^2 + 2 pull z^T (a - x) + pull^2 z^2, term by term."""
    x, a, z = torch.randn(3, 4, 1, 1, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    bound = Bound.of(Nodes(3), LogNormal(), 0.5, 3.0, sigma_tau=0.5)
    _, target = noised_pair(x, z.expand(3, *z.shape), bound.spread, bound.pull)
    variate = pull_variate(z.expand(3, *z.shape), bound.pull, torch.stack([a, x], dim=1))
    for i, pull in enumerate(bound.pull):
        random = (a - target[i]).square() - (a - x).square() - pull**2 * z**2
        torch.testing.assert_close(variate[i, :, 0] - variate[i, :, 1], random.flatten(1).sum(1))


@pytest.mark.parametrize("x", NOISY)
def test_the_control_variate_changes_no_expectation(exact, hermite, expected_logits, x):
    """Gauss-Hermite integrates the odd z^T a exactly, so that the two agree up to rounding, logits and gradients."""
    image = [to_pixel(x[None]).requires_grad_() for _ in range(2)]
    rule = hermite(14, (1, 1, 2))
    logits = [
        expected_logits(epndc(exact, control=c, engine=Engine(batch_size=10**9)), i, rule)
        for c, i in zip((False, True), image, strict=True)
    ]
    torch.testing.assert_close(logits[1], logits[0], rtol=0, atol=1e-9)
    slopes = [torch.autograd.grad(f[1] - f[0], i)[0] for f, i in zip(logits, image, strict=True)]
    torch.testing.assert_close(slopes[1], slopes[0], rtol=0, atol=1e-9)


@pytest.mark.parametrize(("antithetic", "least"), [(False, 15), (True, 4)])
def test_the_control_variate_lowers_the_variance(exact, antithetic, least):
    """Of 2,000 draws of a class difference. Measured 23 times, and 6 times beyond antithetic noise."""
    noise, variance = Noise.of(2, torch.tensor([0])).draws(2000), []
    for control in (False, True):
        logits = epndc(exact, control=control, antithetic=antithetic, engine=Engine(batch_size=10**9))(
            to_pixel(NOISY[:1]).expand(2000, 1, 1, 2), noise
        )
        variance.append((logits[:, 0] - logits[:, 1]).var().item())
    assert variance[0] > least * variance[1]


@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_control_variate_in_blocks_and_its_gradients(exact, batch_size):
    noise, image = Noise.of(0, torch.arange(2)), to_pixel(NOISY).requires_grad_()
    whole = epndc(exact, control=True, count=3)(image, noise)
    blocks = epndc(exact, control=True, count=3, engine=Engine(batch_size=batch_size))
    torch.testing.assert_close(blocks(image, noise), whole, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(lambda i: blocks(i, noise), image)


def test_only_epndc_pays_for_a_control_variate(exact):
    image, noise = to_pixel(NOISY), Noise.of(0, torch.arange(2))
    for variant, sigma in (("dc", 0.0), ("apndc", 0.25)):
        nodes = [Nodes(4, sigma_min=0.6, control=control) for control in (False, True)]
        plain, controlled = (NoisedDiffusionClassifier(exact, 3, sigma, variant, n)(image, noise) for n in nodes)
        assert torch.equal(plain, controlled)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Nodes(1), "nodes.* must be an integer >= 2"),
        (lambda: Nodes(8, "gauss"), "rule"),
        (lambda: Nodes().place(LogNormal(), 0.0, 3.0), "0 < sigma_min < sigma_max"),
        (lambda: Nodes().place(LogNormal(), 3.0, 3.0), "0 < sigma_min < sigma_max"),
        (lambda: Nodes().place(LogNormal(), 3.0, math.inf), "0 < sigma_min < sigma_max"),
    ],
)
def test_invalid_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
