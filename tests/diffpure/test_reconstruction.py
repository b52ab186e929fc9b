"""The reconstruction bound: its terms, soundness on exact worlds, and a score that exceeds the published form."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from common.diffusion.schedules import DDPM, EDM, VP
from common.exact import GaussianMixture
from common.noise import Noise
from common.units import to_model, to_pixel
from diffpure.purifier import DiffPure
from diffpure.reconstruction import drift_integral, mean_reconstruction_bound, noise_radius, reconstruction_bound

F64 = torch.float64
DELTA = 0.05
ROWS = 2000


class OfScore(nn.Module):
    """The denoiser of a score of x_t, D = x + s sigma^2 score(s x, sigma), the score's norm at most ``c_s`` / 2."""

    sigma_min, sigma_max, num_classes = 0.0, math.inf, None

    def __init__(self, c_s: float, mixture: GaussianMixture | None = None) -> None:
        super().__init__()
        self.c_s, self.mixture = c_s, mixture

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        sigma = sigma.reshape(-1, 1, 1, 1)
        scale = (1 + sigma**2) ** -0.5
        if self.mixture is None:
            score = torch.ones_like(x) / math.sqrt(x[0].numel())
        else:
            score = self.mixture.score(x, sigma) / scale
        norm = score.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
        limit = torch.full_like(norm, self.c_s / 2)
        length = limit if self.mixture is None else torch.minimum(norm, limit)
        return x + scale * sigma**2 * score * (length / norm)


def distances(denoiser: nn.Module, x: Tensor, perturbation: Tensor, t_star: float) -> Tensor:
    """||x_hat(0) - x|| of each row, in the model frame."""
    purifier = DiffPure(denoiser, t_star, steps=60, t_end=0)
    purified = purifier(to_pixel(x + perturbation), Noise.of(1, torch.arange(len(x))))
    return (to_model(purified) - x).flatten(1).norm(dim=1)


def test_the_terms_have_the_papers_values():
    """At t* = 0.1, by hand: gamma = (0.1 * 0.1 + 19.9 * 0.1^2 / 2) / 2 = 0.05475."""
    assert drift_integral(VP(), 0.1) == pytest.approx(0.05475, rel=1e-6)
    assert drift_integral(DDPM(), 0.1) == pytest.approx(-math.log(0.89702) / 2, rel=1e-4)
    with pytest.raises(ValueError, match="variance-preserving"):
        drift_integral(EDM(), 0.1)
    assert noise_radius(4, math.exp(-1)) == pytest.approx(math.sqrt(8 + 8 + 4))
    sigma = math.sqrt(math.exp(2 * 0.05475) - 1)
    assert reconstruction_bound(3.0, 0.05475, 80.0, 7.0, published=True) == pytest.approx(3 + 80 * sigma + 7 * 0.05475)
    assert reconstruction_bound(3.0, 0.05475, 80.0, 7.0) == pytest.approx(3 + 80 * sigma + 7 * (math.exp(0.05475) - 1))
    assert mean_reconstruction_bound(3.0, 0.5, 16) == pytest.approx(3 + 2 * (2 + math.sqrt(2)))


def test_the_radius_of_the_noise_holds():
    """Frequency of ||z_0 + z_1|| > C_delta in 20,000 draws: at most delta and 5 deviations of a binomial."""
    draws = Noise.of(0, torch.arange(20000))
    for dimension, delta in ((1, 0.3), (12, 0.1)):
        z = draws.normal(0, (dimension,), F64) + draws.normal(1, (dimension,), F64)
        frequency = float((z.norm(dim=1) > noise_radius(dimension, delta)).double().mean())
        assert 0 < frequency <= delta + 5 * math.sqrt(delta * (1 - delta) / 20000)


@pytest.mark.parametrize("published", [False, True], ids=["ours", "published"])
def test_the_bound_grows_with_each_argument(published):
    def bounds(**changed: float) -> float:
        return reconstruction_bound(
            **{"perturbation": 1.0, "gamma": 0.2, "c_delta": 5.0, "c_s": 2.0, **changed}, published=published
        )

    for name in ("perturbation", "gamma", "c_delta", "c_s"):
        values = [bounds(**{name: value}) for value in (0.1, 0.4, 1.6, 6.4)]
        assert all(a < b for a, b in pairwise(values))
    over_time = [drift_integral(VP(), t) for t in (0.025, 0.05, 0.1, 0.2)]
    assert over_time == sorted(set(over_time))


@pytest.mark.parametrize("t_star", [0.1, 0.3])
def test_the_bound_holds_for_the_exact_score_of_a_mixture(t_star):
    """More than delta of the rows beyond the bound would be a fault; 5 deviations of a binomial are allowed."""
    means = torch.stack((torch.full((1, 2, 2), -0.5, dtype=F64), torch.full((1, 2, 2), 0.4, dtype=F64)))
    mixture = GaussianMixture(means, 0.2)
    x, _ = mixture.sample(Noise.of(0, torch.arange(ROWS)))
    perturbation = torch.full_like(x, 0.1)
    c_s = 8.0
    found = distances(OfScore(c_s, mixture), x, perturbation, t_star)
    bound = reconstruction_bound(0.2, drift_integral(VP(), t_star), noise_radius(4, DELTA), c_s)
    allowed = DELTA + 5 * math.sqrt(DELTA * (1 - DELTA) / ROWS)
    assert float((found > bound).double().mean()) <= allowed
    sigma = float(VP().sigma(torch.tensor(t_star, dtype=F64)))
    assert float(found.mean()) < mean_reconstruction_bound(0.2, sigma, 4)


@pytest.mark.parametrize("t_star", [0.1, 0.4])
def test_a_constant_score_meets_the_bound_and_exceeds_the_published_one(t_star):
    """Along eps_a the distance is ||eps_a|| + (exp(gamma) - 1) C_s and noise, which a large C_s makes negligible."""
    c_s, x = 1e5, torch.zeros(64, 1, 2, 2, dtype=F64)
    found = distances(OfScore(c_s), x, torch.full_like(x, 0.1), t_star)
    g, radius = drift_integral(VP(), t_star), noise_radius(4, DELTA)
    assert float(found.mean()) == pytest.approx(math.expm1(g) * c_s, rel=0.02)
    assert float(found.min()) > reconstruction_bound(0.2, g, radius, c_s, published=True)
