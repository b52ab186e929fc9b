"""Reduction to a smaller size: torch's own pooling and resizing, the noise that is left, and its errors."""

import pytest
import torch
from torch.nn import functional as F

from common.exact import ExactDenoiser, GaussianMixture
from common.noise import Noise
from ndc.reduction import Reduction

SIZES = [(256, 64), (9, 3), (15, 3), (6, 3), (8, 8), (8, 1)]


@pytest.mark.parametrize(("larger", "smaller"), SIZES)
def test_it_is_pooling_or_antialiased_resizing(larger, smaller):
    x = torch.randn(2, 3, larger, larger, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(Reduction(larger, smaller)(x), F.avg_pool2d(x, larger // smaller))
    resized = F.interpolate(x, size=(smaller, smaller), mode="bilinear", antialias=True)
    torch.testing.assert_close(Reduction(larger, smaller, "bilinear")(x), resized)


@pytest.mark.parametrize("interpolation", ["area", "bilinear"])
@pytest.mark.parametrize(("larger", "smaller"), [(8, 2), (9, 3)])
def test_the_noise_gain_is_that_of_the_matrix(larger, smaller, interpolation):
    """Rows of the matrix of R: their root sums of squares are the deviations of R n."""
    reduction = Reduction(larger, smaller, interpolation)
    unit = torch.eye(larger**2, dtype=torch.float64).view(-1, 1, larger, larger)
    matrix = reduction(unit).flatten(1).T
    assert matrix.sum(1).sub(1).abs().max() < 1e-12
    assert reduction.noise_gain == pytest.approx(matrix.square().sum(1).sqrt().max().item())
    if interpolation == "area":
        assert reduction.noise_gain == pytest.approx(smaller / larger)
        length = torch.linalg.matrix_norm(matrix, 2).item()  # of a reduced perturbation, at most
        assert length == pytest.approx(smaller / larger)


@pytest.mark.parametrize("interpolation", ["area", "bilinear"])
def test_a_reduced_estimate_has_less_error_than_the_noise_that_is_left(interpolation):
    """4,000 images: the mean squared error in every pixel is below that of R x_tau, itself sigma_tau^2 noise_gain^2.

    Below by a third at least, where the sampling error of either is 2.2 % (the standard deviation of its mean).
    """
    means = 0.6 * torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    mixture, reduction, sigma = GaussianMixture(means, 0.3), Reduction(8, 2, interpolation), 0.5
    noise = Noise.of(3, torch.arange(4000))
    x0, _ = mixture.sample(noise.stream("data"))
    x_tau = x0 + sigma * noise.normal(0, x0.shape[1:], x0.dtype)
    estimate = ExactDenoiser(mixture)(x_tau, torch.tensor(sigma, dtype=torch.float64))
    error, left = ((reduction(x) - reduction(x0)).square().mean(0) for x in (estimate, x_tau))
    assert (error < 2 / 3 * left).all()
    assert left.max() < 1.1 * (sigma * reduction.noise_gain) ** 2
    assert left.max() > 0.9 * (sigma * reduction.noise_gain) ** 2


def test_the_gradient_is_the_transposed_matrix():
    reduction = Reduction(6, 2, "bilinear")
    x = torch.randn(2, 1, 6, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(reduction, x)


def test_the_bits_do_not_depend_on_the_batch():
    x = torch.rand(7, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for reduction in (Reduction(32, 8), Reduction(32, 8, "bilinear")):
        assert torch.equal(torch.cat([reduction(row[None]) for row in x]), reduction(x))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"larger": 250, "smaller": 64}, "smaller must divide larger, .*; got 64 and 250. Give the data a size"),
        ({"larger": 32, "smaller": 64}, "smaller must divide larger"),
        ({"larger": 0, "smaller": 64}, "larger, the side of the images in pixels, must be an integer >= 1"),
        ({"larger": 64, "smaller": 1.5}, "smaller, the side of the denoiser's images"),
        ({"larger": 64, "smaller": 32, "interpolation": "nearest"}, "interpolation must be one of area, bilinear"),
    ],
)
def test_contradictions_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Reduction(**settings)


@pytest.mark.parametrize("side", [8, 63, 128])
def test_images_of_another_size_are_refused(side):
    with pytest.raises(ValueError, match=rf"must be 64 x 64 pixels, .*; got {side} x {side}. Set the data's size"):
        Reduction(64, 16).check(torch.zeros(1, 3, side, side))


def test_a_used_reduction_equals_a_new_one():
    """It is a setting of a run, whatever it has cached."""
    used = Reduction(8, 4)
    used(torch.zeros(1, 1, 8, 8))
    assert used == Reduction(8, 4) and hash(used) == hash(Reduction(8, 4)) and used != Reduction(8, 4, "bilinear")
