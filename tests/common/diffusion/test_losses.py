"""Losses at their optimum, where their values are known."""

import math

import pytest
import torch
from torch import nn

from common.diffusion.denoisers import EDMDenoiser, EpsDenoiser
from common.diffusion.losses import draw_sigma_lognormal, draw_sigma_uniform_time, edm_loss, edm_weight, eps_loss
from common.diffusion.schedules import VP
from common.diffusion.wrappers import ClassifierFree, Clipped, Guided
from common.exact import ExactDenoiser, GaussianMixture
from common.noise import Noise

F64 = torch.float64


class Zero(nn.Module):
    def forward(self, x, c_noise, class_labels=None):
        return torch.zeros_like(x)


@pytest.mark.parametrize("sigma_data", [0.5, 0.2])
@pytest.mark.parametrize("sigma", [0.02, 0.5, 5.0])
def test_edm_loss_of_the_optimal_denoiser_is_one_at_every_level(sigma, sigma_data):
    """Data N(0, sigma_d^2 I): F = 0 is optimal and its loss has mean 1, standard error sqrt(2/(64*1024)) = 0.0055."""
    noise = Noise.of(0, torch.arange(64))
    x0, z = sigma_data * noise.normal(0, (1, 32, 32)), noise.normal(1, (1, 32, 32))
    loss = edm_loss(EDMDenoiser(Zero(), sigma_data), x0, torch.full((64,), sigma), z)
    assert loss.shape == (64,)
    assert float(loss.mean()) == pytest.approx(1, abs=5 * 0.0055)


@pytest.mark.parametrize("sigma_data", [0.5, 1.0])
def test_edm_loss_reads_the_deviation_of_the_data_through_wrappers(sigma_data):
    denoiser = EDMDenoiser(Zero(), sigma_data, num_classes=3)
    x0, z = torch.rand(2, 5, 1, 4, 4, generator=torch.Generator().manual_seed(0)) / 2
    sigma = torch.full((5,), 0.1)
    expected = edm_weight(sigma, sigma_data) * (denoiser(x0 + 0.1 * z, sigma) - x0).square().mean((1, 2, 3))
    flat = Guided(ClassifierFree(denoiser), lambda x, sigma, label: 0 * x.flatten(1).sum(1))
    for wrapped in (denoiser, Clipped(denoiser), ClassifierFree(denoiser), flat, Clipped(flat)):
        assert wrapped.data_deviation == sigma_data
        torch.testing.assert_close(edm_loss(wrapped, x0, sigma, z), expected)


def test_eps_loss_is_the_error_of_the_predicted_noise():
    class Body(nn.Module):
        def forward(self, x, label):
            return torch.tanh(x) + label[:, None, None, None] / 999

    generator = torch.Generator().manual_seed(0)
    x0, z = torch.randn(2, 3, 1, 4, 4, dtype=F64, generator=generator)
    t = torch.tensor([0.05, 0.3, 0.9], dtype=F64)
    sigma, s = VP().sigma(t).view(-1, 1, 1, 1), VP().scale(t).view(-1, 1, 1, 1)
    predicted = torch.tanh(s * (x0 + sigma * z)) + t.view(-1, 1, 1, 1)
    expected = ((predicted - z) ** 2).mean((1, 2, 3))
    torch.testing.assert_close(eps_loss(EpsDenoiser.score_sde(Body()), x0, VP().sigma(t), z), expected)


def test_eps_loss_of_the_optimal_denoiser():
    """Data N(0, v I): E[n|x] leaves the variance v / (v + sigma^2); standard error 0.5 %."""
    noise = Noise.of(0, torch.arange(64))
    z = noise.normal(1, (1, 32, 32)).double()
    x0 = 0.3 * noise.normal(0, (1, 32, 32)).double()
    denoiser = ExactDenoiser(GaussianMixture(torch.zeros(1, 1, 32, 32, dtype=F64), 0.3))
    loss = eps_loss(denoiser, x0, torch.full((64,), 0.4, dtype=F64), z)
    assert float(loss.mean()) == pytest.approx(0.09 / 0.25, rel=0.03)


def test_edm_weight_undoes_the_output_preconditioning():
    """lambda c_out^2 = 1 at every level, c_out as in `EDMDenoiser`."""
    sigma = torch.logspace(-2, 1, 31, dtype=F64)
    c_out = sigma * 0.3 / (sigma**2 + 0.3**2).sqrt()
    torch.testing.assert_close(edm_weight(sigma, 0.3), 1 / c_out**2)
    assert float(edm_weight(torch.tensor(0.5, dtype=F64))) == pytest.approx(8)  # 2/sigma_d^2 at sigma = sigma_d


def test_levels():
    quantiles = draw_sigma_lognormal(torch.tensor([-1.0, 0.0, 1.0], dtype=F64))
    assert quantiles.tolist() == pytest.approx([math.exp(-2.4), math.exp(-1.2), 1.0])
    levels = draw_sigma_uniform_time(VP(), torch.tensor([0.0, 1.0], dtype=F64))
    assert levels.tolist() == pytest.approx([float(VP().sigma(torch.tensor(t, dtype=F64))) for t in (1e-5, 1.0)])
