"""Slopes of functions whose slopes are known; kinks and jumps are seen for what they are."""

import pytest
import torch

from common.numerics.finite_differences import COARSE, FINE, slopes

POINT = torch.tensor([[0.3, -0.7, 1.1]], dtype=torch.float64)
V = torch.tensor([[1.0, 0.0, 0.0], [0.5, -1.0, 2.0]], dtype=torch.float64)


def cubic(x):
    return x.pow(3).sum(1)


def test_of_a_cubic_with_the_error_that_theory_has():
    """f(x + hv) - f(x - hv) = 2h f' + 2h^3 sum v^3: at h = 1e-6 that leaves 1e-11; rounding leaves 1e-16 / 1e-7."""
    found = slopes(cubic, POINT, V, enough=1e-8)
    assert torch.allclose(found.value, (3 * POINT**2 * V).sum(1), rtol=0, atol=1e-8)
    assert bool((found.spread <= 1e-8).all())
    assert not bool(found.flat.any())


@pytest.mark.parametrize(("enough", "calls"), [(1e-6, 2), (0.0, len(FINE))])
def test_it_stops_when_two_agree(enough, calls):
    seen = []
    slopes(lambda x: seen.append(len(x)) or cubic(x), POINT, V, enough=enough)
    assert seen == [4] * calls


@pytest.mark.parametrize("kink", [5e-7, 3e-6, 2e-5])
def test_a_kink_nearby_is_stepped_over(kink):
    """Slope 1 at the point, 5 beyond the kink: the h that straddle it give something between."""
    origin, v = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    found = slopes(lambda x: x.sum(1) + 4 * (x.sum(1) - kink).clamp(min=0), origin, v, enough=1e-6)
    assert float(found.value) == pytest.approx(1.0, abs=1e-6)


def test_a_staircase_is_flat_and_a_constant_too():
    steps = slopes(lambda x: (8 * x).round().sum(1), POINT, V, enough=1e-6)
    assert bool(steps.flat.all())
    assert float(steps.value.abs().max()) == float(steps.spread.abs().max()) == 0
    assert bool(slopes(lambda x: 0 * x.sum(1), POINT, V).flat.all())


def test_float32_on_its_own_ladder():
    """Rounding of a value near 1 is 6e-8, over 2h = 5e-3 that is 1e-5; curvature h^2 = 4e-4 at most."""
    found = slopes(cubic, POINT.float(), V.float(), COARSE, enough=1e-3)
    assert torch.allclose(found.value, (3 * POINT**2 * V).sum(1).float(), atol=5e-3)
