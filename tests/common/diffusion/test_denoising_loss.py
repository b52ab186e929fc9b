"""Losses at their optimum, where their values are known."""

import math

import pytest
import torch
from torch import nn

from common.diffusion.denoisers import EDMDenoiser
from common.diffusion.denoising_loss import draw_sigma_lognormal, edm_loss, edm_weight
from common.diffusion.wrappers import ClassifierFree, Clipped
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
    for wrapped in (denoiser, Clipped(denoiser), ClassifierFree(denoiser), Clipped(ClassifierFree(denoiser))):
        assert wrapped.data_deviation == sigma_data
        torch.testing.assert_close(edm_loss(wrapped, x0, sigma, z), expected)


def test_edm_weight_undoes_the_output_preconditioning():
    """lambda c_out^2 = 1 at every level, c_out as in `EDMDenoiser`."""
    sigma = torch.logspace(-2, 1, 31, dtype=F64)
    c_out = sigma * 0.3 / (sigma**2 + 0.3**2).sqrt()
    torch.testing.assert_close(edm_weight(sigma, 0.3), 1 / c_out**2)
    assert float(edm_weight(torch.tensor(0.5, dtype=F64))) == pytest.approx(8)  # 2/sigma_d^2 at sigma = sigma_d


def test_levels():
    quantiles = draw_sigma_lognormal(torch.tensor([-1.0, 0.0, 1.0], dtype=F64))
    assert quantiles.tolist() == pytest.approx([math.exp(-2.4), math.exp(-1.2), 1.0])
