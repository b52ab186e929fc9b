"""Lipschitz bounds of the classifier and the confidence bound of its means."""

import math

import pytest
import torch
from scipy.stats import binom, norm

from common.units import to_pixel
from ndc.classifier import NoisedDiffusionClassifier
from ndc.lipschitz_bounds import (
    largest_decrease,
    largest_increase,
    last_positive,
    mean_lower,
    quantiles,
    slopes,
)
from ndc.nodes import Nodes
from tests.ndc.lipschitz_worlds import F64, Halves, Opposite, Steep, World, narrow, noise, point, steep

# The bounds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [None, 2.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_no_gradient_is_steeper_than_its_bound(seed, limit):
    """Of every node's part of every difference of logits, at random points; and of their sum. 2: pixel distances."""
    dc = steep(seed, limit)
    world = World(dc)
    x = (2 * torch.rand(12, 2, generator=torch.Generator().manual_seed(5), dtype=F64) - 1).requires_grad_()
    terms = world.terms(x)
    bound = torch.stack([slopes(dc, to_pixel(row.detach()).view(1, 1, 1, 2)) for row in x], dim=1)  # (T,n)
    steepest = 0.0
    for y, k in ((0, 1), (0, 2), (1, 2)):
        difference = terms[..., k] - terms[..., y]
        parts = [2 * torch.autograd.grad(d.sum(), x, retain_graph=True)[0].norm(dim=1) for d in difference]
        whole = 2 * torch.autograd.grad(difference.sum(), x, retain_graph=True)[0].norm(dim=1)
        assert bool((torch.stack(parts) <= bound).all())
        assert bool((whole <= bound.sum(0)).all())
        steepest = max(steepest, (torch.stack(parts) / bound).max().item())
    assert steepest > 0.1  # measured 0.14 to 0.56: the bound is of this size


def test_the_part_of_the_moving_noise_is_attained():
    """Across an edge the difference of logits changes by 8 |x| phi(0) / sigma, next to which 4 sqrt(D) is little."""
    sigma, edge = 0.01, -0.999
    dc = narrow(sigma, Halves(edge))
    weight = dc.bound.weight.sum().item()
    attained = 2 * weight * 8 * abs(edge) * norm.pdf(0) / sigma
    bound = slopes(dc, point(edge)).sum().item()
    assert 0.98 < attained / bound < 1  # 4 sqrt(D) is 1.3 % of it


def test_the_part_of_the_moving_target_is_attained():
    dc = narrow(100.0, Opposite())
    attained = 2 * dc.bound.weight.sum().item() * 4  # E_1 - E_0 = 4 x
    assert 0.98 < attained / slopes(dc, point(0.5)).sum().item() < 1  # the noise's part is 0.5 to 0.9 % at sigma = 100


def test_bounded_terms_are_within_their_reach_and_limited_ones_within_their_limit():
    """The reach is attained by a denoised corner opposite the image; EDM's scale is written out."""
    x = torch.tensor([0.3, -0.8], dtype=F64)
    generator = torch.Generator().manual_seed(0)
    h = (6 * torch.rand(1000, 2, generator=generator, dtype=F64) - 3).clamp(-1, 1)
    h[0] = -x.sign()
    farthest = (h - x).square().sum(1).max().item()
    free, limited = steep(0, None), steep(0, 0.1)
    torch.testing.assert_close(free.term_bounds(point(*x)), torch.full((3,), farthest, dtype=F64))
    sigma = free.bound.sigma
    expected = 0.1 * 2 * (sigma * 0.5) ** 2 / (sigma**2 + 0.25)
    torch.testing.assert_close(limited.term_bounds(point(*x)), expected)
    terms = limited.losses(point(*x).expand(50, 1, 1, 2), noise(50))
    most = (limited.bound.weight * expected).view(-1, 1, 1)
    assert bool((terms.amin(2) == 0).all())
    assert bool((terms <= most * (1 + 1e-12)).all())
    assert bool((terms >= most * (1 - 1e-12)).any())


def test_without_a_limit_it_is_the_clipped_classifier():
    """Up to a constant of all classes. Clipping bounds the terms, so it is part of the classifier."""
    image, rows = point(0.4, -0.2), noise(1)
    plain = NoisedDiffusionClassifier(Steep(3), 3, 0.0, "dc", Nodes(3, "log", 0.25, 1.0))
    dc = steep(3, None)
    clipped = NoisedDiffusionClassifier(dc.denoiser, 3, 0.0, "dc", Nodes(3, "log", 0.25, 1.0))
    torch.testing.assert_close(dc(image, rows).softmax(1), clipped(image, rows).softmax(1))
    assert not torch.allclose(dc(image, rows).softmax(1), plain(image, rows).softmax(1))
    terms = dc.unlimited(image.expand(200, 1, 1, 2), noise(200))
    assert bool((terms <= (dc.bound.weight * dc.term_bounds(image)).view(-1, 1, 1)).all())


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.001), (0.0, 0.97), (0.2, 0.5), (0.8, 1.0)])
@pytest.mark.parametrize("shift", [0.05, 0.7, 3.0])
def test_fall_and_rise_are_suprema_over_the_means(low, high, shift):
    """By brute force, on a grid of 5e-4 in Phi^-1(p), hence to 2e-4."""
    q = torch.linspace(-6, 6, 24_001, dtype=F64)
    p = torch.special.ndtr(q)
    within = (low <= p) & (p <= high)
    lost, gained = p - torch.special.ndtr(q - shift), torch.special.ndtr(q + shift) - p
    ends, a = torch.tensor([norm.ppf(low), norm.ppf(high)], dtype=F64), torch.tensor(shift, dtype=F64)
    assert largest_decrease(*ends, a).item() == pytest.approx(lost[within].max().item(), abs=2e-4)
    assert largest_increase(*ends, a).item() == pytest.approx(gained[within].max().item(), abs=2e-4)


def test_the_largest_decrease_is_that_of_a_half_space():
    q, a = torch.tensor(-2.0, dtype=F64), torch.tensor(0.5, dtype=F64)
    assert largest_decrease(q, q, a).item() == pytest.approx(norm.cdf(-2.0) - norm.cdf(-2.5), rel=1e-12)
    assert largest_increase(q, q, a).item() == pytest.approx(norm.cdf(-1.5) - norm.cdf(-2.0), rel=1e-12)


def test_the_last_positive_point():
    assert last_positive(lambda x: 0.3 - x**3, 2.0) == pytest.approx(0.3 ** (1 / 3), abs=1e-12)
    assert 0.3 - last_positive(lambda x: 0.3 - x**3, 2.0) ** 3 > 0
    assert last_positive(lambda x: 1.0, 2.0) == pytest.approx(2.0)


# Confidence ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.01, 0.5])
def test_empirical_bernstein_covers(p):
    """4,000 means of 60 coins: the share of bounds above the truth is at most 5 % (binomial test at 1e-6).

    At p = 0.01 half of all samples show no head at all: what is left then is the term of the range.
    """
    coins = (torch.rand(60, 4000, generator=torch.Generator().manual_seed(1), dtype=F64) < p).double()
    for values, truth in ((coins, p), (-coins, -p)):
        wrong = int((mean_lower(values, 1.0, 0.05) > truth).sum())
        assert wrong <= binom.isf(1e-6, 4000, 0.05)
    low, high = (torch.special.ndtr(q)[0] for q in quantiles(coins[None], 0.05))
    assert int((low > p).sum()) <= binom.isf(1e-6, 4000, 0.05)
    assert int((high < p).sum()) <= binom.isf(1e-6, 4000, 0.05)


def test_empirical_bernstein_by_hand():
    """Values 0 and 4, a hundred each, in [0,8]: V = 4 * 200 / 199."""
    values = torch.tensor([0.0, 4.0], dtype=F64).repeat(100)
    log = math.log(2 / 0.01)
    expected = 2 - math.sqrt(2 * 4 * 200 / 199 * log / 200) - 7 * 8 * log / (3 * 199)
    assert mean_lower(values, 8.0, 0.01).item() == pytest.approx(expected, rel=1e-12)
