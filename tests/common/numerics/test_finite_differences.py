"""Central differences of functions with known derivatives, near kinks, and of flat functions."""

import pytest
import torch

from common.numerics.finite_differences import COARSE, FINE, directional_derivatives

POINT = torch.tensor([[0.3, -0.7, 1.1]], dtype=torch.float64)
V = torch.tensor([[1.0, 0.0, 0.0], [0.5, -1.0, 2.0]], dtype=torch.float64)


def cubic(x):
    return x.pow(3).sum(1)


def test_the_error_for_a_cubic_is_the_theoretical_one():
    """f(x + hv) - f(x - hv) = 2h f' + 2h^3 sum v^3: truncation 1e-11 at h = 1e-6, rounding 1e-16 / 1e-7."""
    estimate = directional_derivatives(cubic, POINT, V, tolerance=1e-8)
    assert torch.allclose(estimate.value, (3 * POINT**2 * V).sum(1), rtol=0, atol=1e-8)
    assert bool((estimate.spread <= 1e-8).all())
    assert not bool(estimate.flat.any())


@pytest.mark.parametrize(("tolerance", "calls"), [(1e-6, 2), (0.0, len(FINE))])
def test_the_search_ends_when_two_step_sizes_agree(tolerance, calls):
    calls_made = []
    directional_derivatives(lambda x: calls_made.append(len(x)) or cubic(x), POINT, V, tolerance=tolerance)
    assert calls_made == [4] * calls


@pytest.mark.parametrize("kink", [5e-7, 3e-6, 2e-5])
def test_a_kink_within_a_step_size_is_skipped(kink):
    """Slope 1 at the point, 5 beyond the kink: step sizes that straddle it give values between."""
    origin, v = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    estimate = directional_derivatives(
        lambda x: x.sum(1) + 4 * (x.sum(1) - kink).clamp(min=0), origin, v, tolerance=1e-6
    )
    assert float(estimate.value) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("jump", [3e-8, 3e-9, 5e-7])
def test_a_jump_near_the_point_is_skipped(jump):
    """Slope 8.5 at the point, and a jump by 1e-4, which adds 1e-4 / 2h to the estimates with larger h."""
    origin, v = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    estimate = directional_derivatives(lambda x: 8.5 * x.sum(1) + 1e-4 * (x.sum(1) > jump), origin, v, tolerance=1e-6)
    assert float(estimate.value) == pytest.approx(8.5, abs=1e-6)
    assert float(estimate.spread) <= 1e-6


def test_step_sizes_without_a_change_are_no_agreement():
    """A function in steps of 2e-8 does not change at the two smallest step sizes; from 1e-5 on its slope is 3."""
    origin, v = torch.full((1, 1), 1e-8, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    estimate = directional_derivatives(lambda x: 3 * (x.sum(1) / 2e-8).floor() * 2e-8, origin, v)
    assert float(estimate.value) == pytest.approx(3.0, rel=2e-3)
    assert not bool(estimate.flat.any())


def test_a_staircase_is_flat_and_a_constant_too():
    steps = directional_derivatives(lambda x: (8 * x).round().sum(1), POINT, V, tolerance=1e-6)
    assert bool(steps.flat.all())
    assert float(steps.value.abs().max()) == float(steps.spread.abs().max()) == 0
    assert bool(directional_derivatives(lambda x: 0 * x.sum(1), POINT, V).flat.all())


def test_float32_with_its_own_step_sizes():
    """Rounding of a value near 1 is 6e-8, over 2h = 5e-3 that is 1e-5; curvature h^2 = 4e-4 at most."""
    estimate = directional_derivatives(cubic, POINT.float(), V.float(), COARSE, tolerance=1e-3)
    assert torch.allclose(estimate.value, (3 * POINT**2 * V).sum(1).float(), atol=5e-3)
