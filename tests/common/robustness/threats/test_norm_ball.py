"""Norm balls: projections against a general solver, uniform starts, the tolerance of the check."""

import math
import re

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import kstest

from common.noise import Noise
from common.robustness.threats.norm_ball import ThreatModel

NORMS = (1, 2, math.inf)


def nearest_by_slsqp(image, adv, norm, eps):
    """min |x - adv|^2 over the ball and the box, as a smooth program: x = image + p - q with p, q >= 0."""
    n = len(image)
    lower, upper = np.zeros(2 * n), np.concatenate((1 - image, image))
    if norm == math.inf:
        upper = np.minimum(upper, eps)

    def distance(v):
        d = image + v[:n] - v[n:] - adv
        return float(d @ d), np.concatenate((2 * d, -2 * d))

    def room(v):
        return eps - v.sum() if norm == 1 else eps**2 - ((v[:n] - v[n:]) ** 2).sum()

    constraints = () if norm == math.inf else ({"type": "ineq", "fun": room},)
    bounds = list(zip(lower, upper, strict=True))
    options = {"ftol": 1e-15, "maxiter": 1000}
    solution = minimize(distance, lower, jac=True, bounds=bounds, constraints=constraints, options=options)
    return solution.fun


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("seed", range(6))
def test_projection_is_the_nearest_allowed_point(norm, seed):
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(1, 1, 2, 4, generator=generator, dtype=torch.float64).round(decimals=1)
    adv = image + torch.randn(image.shape, generator=generator, dtype=torch.float64)
    threat = ThreatModel(norm, 0.4 if norm == math.inf else 0.8)
    projected = threat.project(image, adv)
    assert bool(threat.check(image, projected))
    ours = float(((projected - adv) ** 2).sum())
    best = nearest_by_slsqp(image.flatten().numpy(), adv.flatten().numpy(), norm, threat.eps)
    assert ours == pytest.approx(best, rel=1e-5), "SLSQP stops at about 1e-6"


def test_projection_on_ball_then_box_is_not_the_nearest_point():
    """With the box active, projecting on the ball and then on the box ends farther away."""
    image, adv = torch.tensor([[[[0.9, 0.5]]]]), torch.tensor([[[[1.9, 1.5]]]])
    ours = ThreatModel(2, 0.5).project(image, adv)
    two_steps = (image + 0.5 * (adv - image) / (adv - image).norm()).clamp(0, 1)
    assert (ours - adv).norm() < (two_steps - adv).norm() - 0.05
    torch.testing.assert_close(ours.flatten(), torch.tensor([1.0, 0.5 + math.sqrt(0.25 - 0.01)]))


@pytest.mark.parametrize("norm", NORMS)
def test_projection_is_the_identity_on_allowed_points(norm):
    image, threat = torch.rand(20, 3, 4, 4), ThreatModel(norm, 0.5)
    inside = threat.random_start(image, Noise.of(0, torch.arange(20)), 0)
    torch.testing.assert_close(threat.project(image, inside), inside, atol=2e-7, rtol=0)
    once = threat.project(image, image + torch.randn_like(image))
    torch.testing.assert_close(threat.project(image, once), once, atol=2e-7, rtol=0)


@pytest.mark.parametrize(("norm", "eps"), [(1, 12.0), (2, 0.5), (math.inf, 8 / 255)])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6])
def test_projected_points_pass_the_check_in_float32(norm, eps, scale):
    image, threat = torch.rand(4, 3, 32, 32).round(decimals=1), ThreatModel(norm, eps)
    adv = threat.project(image, image + scale * torch.randn_like(image))
    assert adv.dtype == image.dtype
    assert bool(threat.check(image, adv).all())


@pytest.mark.parametrize(("norm", "eps"), [(1, 12.0), (2, 0.5), (math.inf, 8 / 255)])
def test_check_is_strict_per_image(norm, eps):
    image, threat = torch.full((5, 3, 32, 32), 0.5), ThreatModel(norm, eps)
    direction = torch.zeros(3 * 32 * 32, dtype=torch.float64)
    direction[:100] = 1 / (100 if norm == 1 else 10 if norm == 2 else 1)
    adv = image.double() + torch.tensor([0.99, 1.0, 1.001, 1.1, 0.5]).view(5, 1, 1, 1) * eps * direction.view(3, 32, 32)
    adv[4, 0, 0, 0] = math.nan
    assert threat.check(image, adv).tolist() == [True, True, False, False, False]


def test_check_is_exact_at_the_box():
    image, threat = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1), ThreatModel("inf", 0.1)
    assert threat.check(image, image).tolist() == [True, True]
    outside = torch.tensor([-1e-9, 1 + 1.2e-7]).view(2, 1, 1, 1)
    assert threat.check(image, outside).tolist() == [False, False]


def test_distance_is_the_norm_per_image():
    image, adv = torch.rand(3, 2, 4, 4), torch.rand(3, 2, 4, 4)
    for norm in NORMS:
        expected = [np.linalg.norm((a - i).double().flatten(), norm) for a, i in zip(adv, image, strict=True)]
        np.testing.assert_allclose(ThreatModel(norm, 0.5).distance(image, adv).numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_random_starts_fill_the_ball_uniformly(norm):
    """(r/eps)^D is uniform on (0,1) for a uniform point at distance r; coordinates are symmetric. False alarm: 1e-4."""
    image = torch.full((4000, 1, 1, 3), 0.5, dtype=torch.float64)
    threat = ThreatModel(norm, 0.4)
    start = threat.random_start(image, Noise.of(11, torch.arange(4000)), 0)
    assert bool(threat.check(image, start).all())
    assert kstest((threat.distance(image, start) / threat.eps) ** 3, "uniform").pvalue > 1e-4
    offset = (start - image).flatten(1)
    assert float(offset.mean(0).abs().max()) < 4 * float(offset.std()) / math.sqrt(4000)
    other_axes = (offset[:, 0] * offset[:, 1]).mean() / offset[:, 0].var()
    assert abs(float(other_axes)) < 4 / math.sqrt(4000)


@pytest.mark.parametrize("norm", NORMS)
def test_random_starts_depend_on_image_and_step(norm):
    image, noise, threat = torch.rand(6, 1, 4, 4), Noise.of(2, torch.arange(6)), ThreatModel(norm, 0.5)
    together = threat.random_start(image, noise, 0)
    torch.testing.assert_close(
        threat.random_start(image[3:], noise.rows(slice(3, 6)), 0), together[3:], rtol=0, atol=1e-7
    )
    assert not torch.allclose(threat.random_start(image, noise, 1), together)
    assert bool(((together >= 0) & (together <= 1)).all())


@pytest.mark.parametrize("norm", [2, math.inf])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_steps_are_steepest_and_of_the_given_length(norm, scale):
    """By the dual norm no step of length s gains more than s |g|_q, for gradients of any size."""
    adv, gradient = torch.full((3, 1, 4, 4), 0.5), torch.randn(3, 1, 4, 4)
    gradient[2] = 0
    threat = ThreatModel(norm, 0.5)
    step = threat.ascend(adv, scale * gradient, 0.1) - adv
    gain, dual = (step * gradient).flatten(1).sum(1), gradient.flatten(1).norm(dim=1, p=2 if norm == 2 else 1)
    torch.testing.assert_close(gain, 0.1 * dual, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(threat.distance(adv, adv + step)[:2].float(), torch.full((2,), 0.1), rtol=1e-5, atol=0)


def test_l1_steps_are_proportional_to_the_gradient():
    adv, gradient = torch.full((2, 1, 4, 4), 0.5), torch.randn(2, 1, 4, 4)
    gradient[1] = 0
    step = ThreatModel(1, 0.5).ascend(adv, gradient, 0.1) - adv
    torch.testing.assert_close(step[0], 0.1 * gradient[0] / gradient[0].abs().max(), atol=1e-7, rtol=1e-5)
    assert not bool(step[1].any())


@pytest.mark.parametrize(
    ("written", "norm", "name"),
    [
        (1, 1, "L1"),
        ("1", 1, "L1"),
        ("l1", 1, "L1"),
        (2, 2, "L2"),
        (2.0, 2, "L2"),
        ("L2", 2, "L2"),
        ("inf", math.inf, "Linf"),
        ("linf", math.inf, "Linf"),
        ("Linf", math.inf, "Linf"),
        (math.inf, math.inf, "Linf"),
    ],
)
def test_spellings_of_norms(written, norm, name):
    threat = ThreatModel(written, "8/255")
    assert (threat.norm, threat.name, threat.eps) == (norm, name, 8 / 255)


@pytest.mark.parametrize("written", [0, 3, -math.inf, "l0", "max", "", math.nan])
def test_other_norms_raise(written):
    with pytest.raises(ValueError, match="norm must be 1, 2 or inf"):
        ThreatModel(written, 0.1)


def test_eps_in_grey_levels_raises_with_the_remedy():
    message = "eps must be in pixel units, 0 < eps <= 1; got 8.0. Write 8/255."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ThreatModel("inf", 8.0)
    with pytest.raises(ValueError, match="Write 128/255"):
        ThreatModel(2, 128)
    with pytest.raises(ValueError, match="Write 3060/255"):
        ThreatModel(1, 3060)
    assert ThreatModel(2, 1.5).eps == 1.5, "L2 radii above one are ordinary"
    assert ThreatModel(1, 12).eps == 12


@pytest.mark.parametrize("eps", [0, -0.1, math.nan, "0/255", "eight", "8/0"])
def test_invalid_radii_raise(eps):
    with pytest.raises(ValueError, match=r"eps must be"):
        ThreatModel("inf", eps)
