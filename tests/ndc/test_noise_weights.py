"""Weights of noise levels against their definitions."""

import math

import pytest
import torch

from ndc.noise_weights import ELBO, WEIGHTS, Flat, LogNormal, ReferenceWeight, narrow_weight

SIGMA = torch.logspace(-2, 1, 31, dtype=torch.float64)
U = torch.linspace(-14, 12, 40_001, dtype=torch.float64)  # ln sigma, over more than ten standard deviations


@pytest.mark.parametrize(
    ("weight", "total"), [(LogNormal(), 1.0), (LogNormal(-0.4, 0.7), 1.0), (narrow_weight(), 1 / 1.44)]
)
def test_the_lognormal_integrates_to_one_and_the_reference_to_less(weight, total):
    """Trapezoids in ln sigma converge exponentially here; 1e-12 is rounding. 1 / 1.44 = 0.694."""
    assert torch.trapezoid(weight.density(U.exp()) * U.exp(), U).item() == pytest.approx(total, abs=1e-12)


def test_the_narrow_density_is_the_misplaced_parenthesis():
    density = torch.exp(-((SIGMA.log() + 1.2) ** 2) / 2 * 1.2**2) / (SIGMA * 1.2 * math.sqrt(2 * math.pi))
    torch.testing.assert_close(narrow_weight().density(SIGMA), density)
    assert (LogNormal().density(SIGMA) - density).abs().max() > 0.1
    assert WEIGHTS["narrow"] == narrow_weight()


def test_the_reference_weight_takes_the_density_at_the_left_end():
    sigma, width = SIGMA + 0.1, torch.full_like(SIGMA, 0.1)
    ratio = ReferenceWeight().of_nodes(sigma, width) / (narrow_weight()(sigma) * width)
    torch.testing.assert_close(ratio, narrow_weight().density(SIGMA) / narrow_weight().density(sigma))
    torch.testing.assert_close(LogNormal().of_nodes(sigma, width), LogNormal()(sigma) * width)


@pytest.mark.parametrize("sigma_data", [0.5, 0.9])
def test_the_elbo_weight_is_the_inverse_cube_for_any_placement_of_nodes(sigma_data):
    torch.testing.assert_close(ELBO(sigma_data)(SIGMA), SIGMA**-3)


def test_training_weight_over_elbo_between_half_and_three():
    """Within a factor of two at temperature 1, as documented."""
    sigma = torch.linspace(0.5, 3, 101, dtype=torch.float64)
    ratio = LogNormal()(sigma) * sigma**3
    assert 0.5 < ratio.min() < ratio.max() < 2


@pytest.mark.parametrize("weight", [LogNormal(), narrow_weight(), ELBO(0.7), Flat()])
def test_mass_is_the_antiderivative_and_inverse_its_inverse(weight):
    sigma = SIGMA.clone().requires_grad_()
    (slope,) = torch.autograd.grad(weight.mass(sigma).sum(), sigma)
    torch.testing.assert_close(slope, weight.density(SIGMA))
    torch.testing.assert_close(weight.inverse(weight.mass(SIGMA)), SIGMA)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LogNormal(std=0.0), "std"),
        (lambda: LogNormal(sigma_data=-1.0), "sigma_data"),
        (lambda: LogNormal(total=math.nan), "total"),
        (lambda: LogNormal(mean=math.nan), "mean"),
        (lambda: Flat(sigma_data=math.nan), "sigma_data"),
        (lambda: ELBO(0.0), "sigma_data"),
    ],
)
def test_invalid_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
