"""A network that predicts the exact score is the exact posterior mean, in either frame and for either label."""

import pytest
import torch
from torch import nn

from common.diffusion.score_denoiser import ScoreDenoiser
from common.exact import GaussianMixture

F64 = torch.float64
SCALES = [50 * (0.01 / 50) ** (j / 999) for j in range(1000)]  # in the network's own frame, descending


@pytest.fixture
def mixture() -> GaussianMixture:
    """Data of the network's frame."""
    return GaussianMixture(torch.rand(4, 3, 2, 2, dtype=F64, generator=torch.Generator().manual_seed(1)), 0.1)


class Score(nn.Module):
    """(D(x, sigma) - x) / sigma^2 of the mixture, at the sigma that the label means."""

    def __init__(self, mixture, discrete):
        super().__init__()
        self.mixture, self.discrete = mixture, discrete

    def forward(self, x, label):
        self.x, self.label = x, label
        assert label.dtype == (torch.int64 if self.discrete else F64)
        sigma = torch.tensor([SCALES[int(j)] for j in label], dtype=F64) if self.discrete else label
        return (self.mixture.denoiser(x, sigma) - x) / sigma.view(-1, 1, 1, 1) ** 2


@pytest.mark.parametrize("centered", [True, False])
@pytest.mark.parametrize("discrete", [True, False])
def test_the_exact_score_gives_the_exact_denoiser(mixture, centered, discrete):
    """Pixels: 2 D_pixel((x + 1) / 2, sigma / 2) - 1 is the denoiser of data that are twice as wide."""
    width = 1 if centered else 2
    network = Score(mixture, discrete)
    denoiser = ScoreDenoiser(network, 0.01 * width, 50.0 * width, 1000 if discrete else None, centered)
    own = torch.tensor([SCALES[j] for j in (0, 123, 500, 700, 999)], dtype=F64)
    x = torch.randn(5, 3, 2, 2, dtype=F64, generator=torch.Generator().manual_seed(2)) * own.view(-1, 1, 1, 1)
    expected = mixture.denoiser(x, own)
    found = denoiser(width * x - (width - 1), width * own)
    torch.testing.assert_close(found, width * expected - (width - 1), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(network.x, x)
    assert network.label.tolist() == pytest.approx([0, 123, 500, 700, 999] if discrete else own.tolist())
    assert (denoiser.sigma_min, denoiser.sigma_max) == (0.01 * width, 50.0 * width)


def test_rounding_touches_the_label_alone():
    """Between two trained levels the network's noise, -sigma_j s, is subtracted at the true sigma."""

    class Noise(nn.Module):
        def forward(self, x, label):
            self.label = label
            return -torch.ones_like(x) / torch.tensor([SCALES[int(j)] for j in label], dtype=F64).view(-1, 1, 1, 1)

    network, x = Noise(), torch.zeros(3, 1, 2, 2, dtype=F64)
    denoiser = ScoreDenoiser(network, 0.01, 50.0, num_scales=1000, centered=True)
    sigma = torch.tensor([0.9 * SCALES[300] + 0.1 * SCALES[301], 1e-4, 99.0], dtype=F64)
    torch.testing.assert_close(denoiser(x, sigma), -sigma.view(-1, 1, 1, 1).expand_as(x))
    assert network.label.tolist() == [300, 999, 0]
    torch.testing.assert_close(denoiser(x, sigma[0]), -sigma[0] * torch.ones_like(x))  # a level () for all


def test_impossible_scores_are_refused():
    for options in ({"sigma_min": 0.0}, {"sigma_min": 3.0, "sigma_max": 2.0}, {"num_scales": 1}):
        with pytest.raises(ValueError, match=r"needs|must be"):
            ScoreDenoiser(nn.Identity(), **options)
    with pytest.raises(ValueError, match="takes no label"):
        ScoreDenoiser(nn.Identity())(torch.zeros(1, 1, 2, 2), torch.tensor(1.0), torch.tensor([0]))
