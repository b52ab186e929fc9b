"""Divergences of diffused laws: closed forms of Gaussians, quadrature of mixtures, and their contraction."""

import math
from itertools import pairwise

import pytest
import torch

from common.diffusion.schedules import DDPM, EDM, VP
from common.exact import GaussianMixture
from common.noise import Noise
from diffpure.divergence import (
    contraction_rate,
    fisher_divergence,
    kl_divergence,
    paired_kl_bound,
    random_sign_kl_bound,
)

F64 = torch.float64
DRAWS = Noise.of(5, torch.arange(4000))
FEW = 5  # standard errors: exceeded once in 1.7 million estimates


def gaussian(mean: list[float], std: float) -> GaussianMixture:
    return GaussianMixture(torch.tensor([mean], dtype=F64), std)


def worlds() -> tuple[GaussianMixture, GaussianMixture]:
    """Two mixtures on the line: clean, and moved by an attack."""
    clean = GaussianMixture(torch.tensor([[-0.6], [0.5]], dtype=F64), 0.15, torch.tensor([1.0, 2.0]))
    attacked = GaussianMixture(torch.tensor([[-0.3], [0.9]], dtype=F64), 0.15, torch.tensor([1.0, 2.0]))
    return clean, attacked


def on_the_line(p: GaussianMixture, q: GaussianMixture, sigma: float) -> tuple[float, float]:
    """KL and Fisher divergence by the trapezoidal rule, the scores by finite differences of the densities."""
    x = torch.linspace(-8, 8, 40001, dtype=F64) * max(1, sigma)
    h = float(x[1] - x[0])
    a, b = (law.log_density(x[:, None], sigma) for law in (p, q))
    mass = a.exp() * h
    difference = torch.gradient(a - b, spacing=h)[0]
    return float((mass * (a - b)).sum()), float((mass * difference**2).sum())


@pytest.mark.parametrize("sigma", [0.1, 0.5, 3.0])
def test_two_gaussians_have_the_closed_form(sigma):
    """KL = (d/2) (r - 1 - log r) + ||m||^2 / (2 v_q), r = v_p / v_q; the scores differ by an affine function."""
    mean = [0.2, -0.1, 0.4]
    p, q = gaussian(mean, 0.3), gaussian([0.0, 0.0, 0.0], 0.5)
    v_p, v_q, square = 0.3**2 + sigma**2, 0.5**2 + sigma**2, sum(m**2 for m in mean)
    kl = 1.5 * (v_p / v_q - 1 - math.log(v_p / v_q)) + square / (2 * v_q)
    fisher = 3 * v_p * (1 / v_q - 1 / v_p) ** 2 + square / v_q**2
    for found, exact in ((kl_divergence, kl), (fisher_divergence, fisher)):
        mean_, error = found(p, q, sigma, DRAWS)
        assert abs(mean_ - exact) < FEW * error
        assert error < 0.04 * exact


def test_opposite_noise_cancels_the_linear_part():
    """For equal variances log p/q is affine: without a spread of the data every draw has the exact value."""
    p, q = gaussian([0.3, 0.1], 0.0), gaussian([0.1, 0.4], 0.0)
    mean, error = kl_divergence(p, q, 0.25, DRAWS.rows(slice(0, 8)))
    assert mean == pytest.approx(0.13 / (2 * 0.25**2), rel=1e-6)
    assert error < 1e-6


@pytest.mark.parametrize("sigma", [0.05, 0.3, 1.0])
def test_mixtures_have_the_values_of_quadrature(sigma):
    p, q = worlds()
    for found, exact in zip((kl_divergence, fisher_divergence), on_the_line(p, q, sigma), strict=True):
        mean, error = found(p, q, sigma, DRAWS)
        assert abs(mean - exact) < FEW * error < 0.4 * exact


@pytest.mark.parametrize("schedule", [VP(), EDM()], ids=["VP", "EDM"])
def test_the_rate_is_the_derivative_of_the_divergence(schedule):
    """Central differences of the KL by quadrature; the rate by Monte Carlo."""
    p, q = worlds()
    for t in (0.1, 0.3, 0.5):
        at = [on_the_line(p, q, float(schedule.sigma(torch.tensor(u, dtype=F64))))[0] for u in (t - 1e-4, t + 1e-4)]
        mean, error = contraction_rate(p, q, schedule, t, DRAWS)
        assert mean < 0
        assert abs(mean - (at[1] - at[0]) / 2e-4) < FEW * error + 1e-4 * abs(mean)


def test_the_integral_of_the_rate_is_the_divergence():
    """Minus the integral of the rate over t is KL(t_0) - KL(t_1), by quadrature and by Monte Carlo."""
    p, q = worlds()
    schedule, times = VP(), torch.linspace(0.05, 0.5, 46, dtype=F64)
    rates = torch.tensor([contraction_rate(p, q, schedule, float(t), DRAWS) for t in times], dtype=F64)
    integral, error = (float(torch.trapezoid(rates[:, k], times)) for k in (0, 1))
    ends = [float(schedule.sigma(t)) for t in times[[0, -1]]]
    exact = [on_the_line(p, q, sigma)[0] for sigma in ends]
    drawn = [kl_divergence(p, q, sigma, DRAWS) for sigma in ends]
    assert -integral == pytest.approx(exact[0] - exact[1], abs=FEW * error)
    assert -integral == pytest.approx(
        drawn[0].mean - drawn[1].mean, abs=FEW * (error + sum(one.error for one in drawn))
    )
    assert FEW * error < 0.4 * (exact[0] - exact[1])


def test_the_divergence_contracts():
    p, q = worlds()
    found = [kl_divergence(p, q, float(DDPM().sigma(torch.tensor(t))), DRAWS) for t in (0.02, 0.1, 0.2, 0.4, 0.8)]
    for before, after in pairwise(found):
        assert after.mean < before.mean - FEW * after.error


def images() -> tuple[torch.Tensor, torch.Tensor]:
    """Twelve images of 48 numbers and their attacked copies, a sign of 0.06 in each number."""
    noise = Noise.of(0, torch.arange(12))
    x = 0.4 * noise.normal(0, (3, 4, 4), F64)
    return x, x + 0.06 * noise.normal(1, (3, 4, 4), F64).sign()


def test_empirical_laws_stay_below_the_paired_bound_and_meet_it_while_apart():
    x, attacked = images()
    p, q = GaussianMixture(x, 0.0), GaussianMixture(attacked, 0.0)
    near, far = (kl_divergence(p, q, sigma, DRAWS) for sigma in (0.2, 1.5))
    assert paired_kl_bound(x, attacked, 0.2) == pytest.approx(48 * 0.06**2 / (2 * 0.2**2))
    assert near.mean == pytest.approx(paired_kl_bound(x, attacked, 0.2), rel=1e-4)
    assert far.mean + FEW * far.error < 0.75 * paired_kl_bound(x, attacked, 1.5)


def test_the_parts_of_many_rows_are_one_estimate(monkeypatch):
    p, q = worlds()
    whole = kl_divergence(p, q, 0.3, DRAWS.rows(slice(0, 100)))
    monkeypatch.setattr("diffpure.divergence._ELEMENTS", 64)
    assert kl_divergence(p, q, 0.3, DRAWS.rows(slice(0, 100))) == pytest.approx(whole, rel=1e-12)


def test_random_signs_have_a_smaller_bound():
    """In one number the bound is the divergence of a point mass and two: by Monte Carlo, and its leading term."""
    p = GaussianMixture(torch.zeros(1, 1, dtype=F64), 0.0)
    q = GaussianMixture(torch.tensor([[-0.3], [0.3]], dtype=F64), 0.0)
    mean, error = kl_divergence(p, q, 0.25, DRAWS)
    assert abs(random_sign_kl_bound(0.3, 0.25, 7) / 7 - mean) < FEW * error < 0.3 * mean
    assert random_sign_kl_bound(0.06, 2.0, 3072) == pytest.approx(3072 * 0.03**4 / 4, rel=2e-3)
    assert random_sign_kl_bound(0.06, 0.4, 3072) < 0.02 * 3072 * 0.06**2 / (2 * 0.4**2)
    assert random_sign_kl_bound(0.0, 0.4, 3072) == 0


def test_laws_that_do_not_fit_are_refused():
    p, _ = worlds()
    with pytest.raises(ValueError, match="one shape"):
        kl_divergence(p, gaussian([0.0, 0.0], 1.0), 0.3, DRAWS)
    with pytest.raises(ValueError, match="p must be a GaussianMixture"):
        kl_divergence(torch.zeros(3), p, 0.3, DRAWS)
    with pytest.raises(ValueError, match=">= 2"):
        kl_divergence(p, p, 0.3, DRAWS.rows(slice(0, 1)))
    with pytest.raises(ValueError, match="one per image"):
        paired_kl_bound(torch.zeros(2, 3), torch.zeros(3, 3), 0.1)
    with pytest.raises(ValueError, match="t must be"):
        contraction_rate(p, p, VP(), 0.0, DRAWS)
