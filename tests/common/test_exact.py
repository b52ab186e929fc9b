"""The closed forms of the mixture against independent computations."""

import math

import pytest
import torch
from torch import distributions

from common.exact import ExactDenoiser, GaussianMixture
from common.noise import Noise

F64 = torch.float64
SIGMAS = [0.05, 0.5, 3.0]


@pytest.fixture
def mixture() -> GaussianMixture:
    generator = torch.Generator().manual_seed(1)
    means = torch.randn(5, 2, 3, dtype=F64, generator=generator)
    stds = torch.tensor([0.1, 0.3, 0.2, 0.0, 0.5], dtype=F64)
    weights = torch.tensor([1.0, 2.0, 3.0, 1.0, 2.0])
    return GaussianMixture(means, stds, weights, torch.tensor([0, 1, 2, 0, 1]))


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(4, 2, 3, dtype=F64, generator=torch.Generator().manual_seed(2))


def density(mixture: GaussianMixture, x: torch.Tensor, sigma: float, components: list[int]) -> torch.Tensor:
    """The mixture of these components by torch.distributions."""
    weights = torch.tensor([1.0, 2.0, 3.0, 1.0, 2.0], dtype=F64)[components]
    scale = (mixture.stds[components] ** 2 + sigma**2).sqrt()[:, None].expand(-1, 6)
    normals = distributions.Independent(distributions.Normal(mixture.means[components].flatten(1), scale), 1)
    return distributions.MixtureSameFamily(distributions.Categorical(weights), normals).log_prob(x.flatten(1))


@pytest.mark.parametrize("sigma", SIGMAS)
def test_density(mixture, x, sigma):
    torch.testing.assert_close(mixture.log_density(x, sigma), density(mixture, x, sigma, [0, 1, 2, 3, 4]))
    label = torch.full((4,), 1)
    torch.testing.assert_close(mixture.log_density(x, sigma, label), density(mixture, x, sigma, [1, 4]))


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("label", [None, torch.tensor([0, 1, 2, 1])])
def test_score_is_the_gradient_and_tweedie_holds(mixture, x, sigma, label):
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(mixture.log_density(leaf, sigma, label).sum(), leaf)
    torch.testing.assert_close(mixture.score(x, sigma, label), gradient)
    torch.testing.assert_close(mixture.denoiser(x, sigma, label), x + sigma**2 * gradient)


def test_denoiser_by_quadrature():
    """E[x0 | x] = int x0 p(x0) N(x; x0, sigma) dx0 / p(x), summed on a fine grid in one dimension."""
    means = torch.tensor([[-0.5], [0.8]], dtype=F64)
    mixture = GaussianMixture(means, torch.tensor([0.2, 0.3]), torch.tensor([0.3, 0.7]))
    x0 = torch.linspace(-4, 4, 20001, dtype=F64)[:, None]
    prior = mixture.log_density(x0).exp()
    for sigma in (0.1, 0.7):
        x = torch.tensor([[-0.9], [0.1], [1.3]], dtype=F64)
        weight = prior * torch.exp(-((x - x0.T) ** 2) / (2 * sigma**2))
        expected = (weight * x0.T).sum(1, keepdim=True) / weight.sum(1, keepdim=True)
        torch.testing.assert_close(mixture.denoiser(x, sigma), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_bayes_classifier(mixture, x, sigma):
    """log p(y|x) = log p(y) + log p(x|y) - log p(x), with the class weights 2/9, 4/9, 3/9."""
    prior = torch.tensor([2.0, 4.0, 3.0], dtype=F64) / 9
    columns = [mixture.log_density(x, sigma, torch.full((4,), y)) for y in range(3)]
    expected = prior.log() + torch.stack(columns, 1) - mixture.log_density(x, sigma)[:, None]
    torch.testing.assert_close(mixture.bayes_logits(x, sigma), expected)
    torch.testing.assert_close(mixture.bayes_logits(x, sigma).exp().sum(1), torch.ones(4, dtype=F64))


def test_levels_per_row_and_rows_without_label(mixture, x):
    sigma = torch.tensor([0.1, 0.5, 1.0, 2.0], dtype=F64)
    label = torch.tensor([-1, 1, 2, -1])
    for b in range(4):
        alone = None if label[b] < 0 else label[b : b + 1]
        expected = mixture.denoiser(x[b : b + 1], float(sigma[b]), alone)
        torch.testing.assert_close(ExactDenoiser(mixture)(x, sigma, label)[b : b + 1], expected)


def test_no_overflow_far_from_all_means(mixture):
    far = torch.full((1, 2, 3), 1e3, dtype=F64)
    for result in (mixture.denoiser(far, 0.01), mixture.bayes_logits(far, 0.01), mixture.score(far, 0.01)):
        assert not result.isnan().any()


def test_samples_follow_the_law(mixture):
    """20,000 samples: counts, means, a spread within 4.5 standard errors (10 checks: fails for 1 in 10,000 seeds)."""
    n = 20_000
    x0, label = mixture.sample(Noise.of(5, torch.arange(n)))
    assert x0.shape == (n, 2, 3)
    assert x0.dtype == F64
    weights = torch.tensor([1.0, 2.0, 3.0, 1.0, 2.0], dtype=F64) / 9
    for y, share in enumerate((2 / 9, 4 / 9, 3 / 9)):
        assert abs(float((label == y).double().mean()) - share) < 4.5 * math.sqrt(share * (1 - share) / n)
    mean = (weights @ mixture.means.flatten(1)).view(2, 3)
    error = (x0.mean(0) - mean).abs() / (x0.std(0) / math.sqrt(n))
    assert error.max() < 4.5
    ones = x0[label == 2] - mixture.means[2]  # class 2 is component 2 alone, with std 0.2
    assert float(ones.std()) == pytest.approx(0.2, abs=4.5 * 0.2 / math.sqrt(2 * ones.numel()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights": torch.tensor([1.0, -1.0])}, "weights must be"),
        ({"labels": torch.tensor([0.0, 1.0])}, "labels must be"),
        ({"labels": torch.tensor([0, 2])}, "every class"),
        ({"num_classes": 3}, "every class"),
        ({"stds": -0.1}, "stds must be a finite number >= 0"),
    ],
)
def test_impossible_mixtures_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        GaussianMixture(**{"means": torch.zeros(2, 1), "stds": 0.1, **arguments})
