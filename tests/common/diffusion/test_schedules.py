"""Schedules against calculus and published tables."""

import math

import pytest
import torch

from common.diffusion.schedules import DDPM, EDM, VP, per_row

F64 = torch.float64
SCHEDULES = [VP(), DDPM(), DDPM(betas="cosine"), DDPM(1000, 1e-3, 1e-2, "scaled_linear"), EDM()]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_drift_and_diffusion_belong_to_sigma_and_scale(schedule):
    """f = d log s / dt and g^2 = s^2 d sigma^2 / dt, by autograd, away from the nodes of the discrete table."""
    t = (torch.arange(1, 998, 7, dtype=F64) + 0.37) / 1000
    t.requires_grad_()
    (f,) = torch.autograd.grad((schedule.scale(t).log() + 0 * t).sum(), t)
    (growth,) = torch.autograd.grad((schedule.sigma(t) ** 2).sum(), t)
    torch.testing.assert_close(schedule.drift(t), f, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(schedule.diffusion(t) ** 2, schedule.scale(t) ** 2 * growth, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_time_inverts_sigma(schedule):
    t = torch.cat((torch.linspace(1e-5, 1, 3001, dtype=F64), torch.tensor([1e-7], dtype=F64)))
    assert (schedule.time(schedule.sigma(t)) - t).abs().max() < 1e-10


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("shape", [(), (3,)])
def test_shape_and_dtype_are_kept(schedule, dtype, shape):
    t = torch.full(shape, 0.1, dtype=dtype)
    for method in (schedule.sigma, schedule.scale, schedule.drift, schedule.diffusion, schedule.time):
        result = method(t)
        assert result.shape == shape
        assert result.dtype == dtype


def test_vp_numbers_of_the_papers():
    """sigma at t* = 0.1 to the three digits that are published, and the times of smoothing's levels."""
    vp = VP()
    assert float(vp.sigma(torch.tensor(0.1))) == pytest.approx(0.340, abs=5e-4)
    times = vp.time(torch.tensor([0.5, 1.0, 2.0]))
    assert times.tolist() == pytest.approx([0.145, 0.259, 0.397], abs=5e-4)
    abar = vp.scale(torch.tensor([0.075, 0.1, 0.125, 0.15, 0.5])) ** 2
    assert abar.tolist() == pytest.approx([0.93850, 0.89628, 0.84538, 0.78751, 0.07906], abs=6e-6)


def test_ddpm_table():
    """sigma_i from the plain product of 1 - beta_i, and the published products at five indices."""
    ddpm = DDPM()
    abar = torch.ones(1000, dtype=F64)
    product = 1.0
    for i in range(1000):
        product *= 1 - (1e-4 + i * (2e-2 - 1e-4) / 999)
        abar[i] = product
    torch.testing.assert_close(ddpm.sigmas, (1 / abar - 1).sqrt(), rtol=1e-10, atol=0)
    published = [0.93912, 0.89702, 0.84618, 0.78832, 0.07859]
    assert abar[[74, 99, 124, 149, 499]].tolist() == pytest.approx(published, abs=6e-6)
    t = torch.arange(1, 1001, dtype=F64) / 1000
    torch.testing.assert_close(ddpm.sigma(t), ddpm.sigmas, rtol=1e-10, atol=0)
    torch.testing.assert_close(ddpm.scale(t) ** 2, abar, rtol=1e-10, atol=0)
    assert float(ddpm.scale(torch.tensor(0.0, dtype=F64))) == 1


@pytest.mark.parametrize("steps", [50, 1000, 4000])
def test_cosine_table(steps):
    """abar_i = f((i+1)/N) / f(0), arXiv 2102.09672 eq. 17, where the bound on beta, 0.999, has not been met."""
    schedule = DDPM(steps, betas="cosine")
    f = [math.cos((i / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(steps + 1)]
    sigmas = torch.tensor([(f[0] / value - 1) ** 0.5 for value in f[1:-1]], dtype=F64)
    torch.testing.assert_close(schedule.sigmas[:-1], sigmas, rtol=1e-7, atol=0)  # f cancels near 1 and near 0
    last = (schedule.sigmas[-1] ** 2 + 1) / (schedule.sigmas[-2] ** 2 + 1)  # abar_{N-2} / abar_{N-1} = 1 / (1 - beta)
    assert float(last) == pytest.approx(1000, rel=1e-9)
    for dtype in (torch.float32, F64):
        assert torch.equal(schedule.index(schedule.sigmas.to(dtype)), torch.arange(steps))


def test_scaled_linear_table():
    schedule = DDPM(3, 0.04, 0.36, "scaled_linear")  # roots 0.2, 0.4, 0.6
    abar = torch.tensor([0.96, 0.96 * 0.84, 0.96 * 0.84 * 0.64], dtype=F64)
    torch.testing.assert_close(schedule.sigmas, (1 / abar - 1).sqrt(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_ddpm_step_from_an_index_uses_its_own_beta(dtype):
    t = torch.arange(1, 1001, dtype=dtype) / 1000
    beta = torch.linspace(1e-4, 2e-2, 1000, dtype=F64)
    expected = -1000 * torch.log1p(-beta)
    torch.testing.assert_close(DDPM().diffusion(t).double() ** 2, expected, rtol=1e-5, atol=0)


def test_ddpm_index():
    ddpm = DDPM()
    every = torch.arange(1000)
    for dtype in (torch.float32, F64):
        assert torch.equal(ddpm.index(ddpm.sigmas.to(dtype)), every)
        torch.testing.assert_close(ddpm.index(ddpm.sigmas.to(dtype), "interpolate"), every.to(dtype), rtol=0, atol=0.01)
    between = torch.rand(500, dtype=F64, generator=torch.Generator().manual_seed(0)) * 20
    distance = (ddpm.sigmas - between[:, None]).abs()
    assert torch.equal(ddpm.index(between), distance.argmin(1))
    low, high = ddpm.sigmas[99], ddpm.sigmas[100]
    assert 99 < float(ddpm.index((low + high) / 2, "interpolate")) < 100
    assert ddpm.index(torch.tensor([1e-9, 1e9])).tolist() == [0, 999]
    with pytest.raises(ValueError, match="rounding must be"):
        ddpm.index(low, "floor")


def test_per_row():
    x = torch.zeros(2, 3, 4, 4)
    assert per_row(torch.tensor([1.0, 2.0], dtype=F64), x).shape == (2, 1, 1, 1)
    assert per_row(torch.tensor([1.0, 2.0], dtype=F64), x).dtype == x.dtype
    assert (per_row(torch.tensor(2.0, dtype=F64), x) * x).dtype == x.dtype


@pytest.mark.parametrize(
    "make",
    [
        lambda: VP(0.0),
        lambda: VP(2.0, 1.0),
        lambda: DDPM(0),
        lambda: DDPM(beta_end=1.0),
        lambda: DDPM(betas="jsd"),
        lambda: EDM(0.0),
    ],
)
def test_impossible_schedules_are_refused(make):
    with pytest.raises(ValueError, match=r"must be|needs"):
        make()
