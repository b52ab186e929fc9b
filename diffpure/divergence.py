"""Divergence between diffused clean and attacked images: the contraction of DiffPure's theorem 3.1, and bounds of it.

Diffusion scales an image and adds noise, and scaling changes no divergence. So p_sigma and q_sigma are the laws of
x0 + sigma n for clean and for attacked x0, in the model frame, and at sigma = sigma(t)

    d/dt KL(p_t || q_t) = -1/2 g(t)^2 E_{p_t} ||grad log p_t - grad log q_t||^2 <= 0,
    d/d(sigma^2) KL(p_sigma || q_sigma) = -1/2 E_{p_sigma} ||grad log p_sigma - grad log q_sigma||^2.

A `GaussianMixture` has these densities and scores exactly. N images are one as well, of N point masses: with the clean
images x_i and the attacked images x_i' as means, the estimates below are those of the two *empirical* laws. For N
independent pairs the expected divergence of these is an upper bound of that of the laws that the pairs come from, by
joint convexity, and decreases with N. It is far above it while the N images stay apart in the noise: then it is the
`paired_kl_bound`.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from common.checks.settings import check_count, check_not_negative, check_part, check_positive
from common.diffusion.schedules import Schedule
from common.exact import GaussianMixture
from common.noise import Noise

_ELEMENTS = 2**24  # of the differences between rows and means that exist at once
_SAMPLE, _DIFFUSE = 0, 2  # steps of the noise; a mixture takes two for a sample


class Estimate(NamedTuple):
    """Mean over independent draws and its standard error."""

    mean: float
    error: float


def kl_divergence(p: GaussianMixture, q: GaussianMixture, sigma: float, noise: Noise) -> Estimate:
    """KL(p_sigma || q_sigma) in nats, by Monte Carlo: E_{p_sigma} log(p_sigma / q_sigma).

    Each row of ``noise`` is a draw x0 of p and the pair x0 +- sigma n, which cancels what is odd in n. ``sigma`` is in
    the model frame. Raises ``ValueError`` for mixtures of different shapes.
    """

    def log_ratio(x: Tensor) -> Tensor:
        return p.log_density(x, sigma) - q.log_density(x, sigma)

    return _mean(log_ratio, p, q, sigma, noise)


def fisher_divergence(p: GaussianMixture, q: GaussianMixture, sigma: float, noise: Noise) -> Estimate:
    """E_{p_sigma} ||grad log p_sigma - grad log q_sigma||^2, by the draws of `kl_divergence`; 1 / (model units)^2."""

    def square(x: Tensor) -> Tensor:
        return (p.score(x, sigma) - q.score(x, sigma)).flatten(1).square().sum(1)

    return _mean(square, p, q, sigma, noise)


def contraction_rate(p: GaussianMixture, q: GaussianMixture, schedule: Schedule, t: float, noise: Noise) -> Estimate:
    """d/dt KL(p_t || q_t) at time t, in nats per unit of time: never positive.

    It is -g(t)^2 / (2 s(t)^2) times the Fisher divergence at sigma(t), whose scores are those of x_t / s(t).
    """
    time = torch.tensor(check_positive("t", t), dtype=torch.float64)
    factor = -float(schedule.diffusion(time) ** 2 / (2 * schedule.scale(time) ** 2))
    mean, error = fisher_divergence(p, q, float(schedule.sigma(time)), noise)
    return Estimate(factor * mean, -factor * error)


def paired_kl_bound(x: Tensor, attacked: Tensor, sigma: float) -> float:
    """Upper bound 1/N sum_i ||x_i - x_i'||^2 / (2 sigma^2) of the divergence in nats, by joint convexity.

    It holds for the empirical laws of the pairs and, in expectation over independent pairs, for those they come from;
    for every attack, also one that is chosen for each image. ``x``, ``attacked`` (N, ...) in the model frame. Within
    L-infinity ``eps`` in pixels it is at most d (2 eps)^2 / (2 sigma^2), d numbers per image.
    """
    if x.shape != attacked.shape:
        raise ValueError(f"attacked must be one per image, {tuple(x.shape)}; got {tuple(attacked.shape)}")
    squares = (x - attacked).flatten(1).double().square().sum(1)
    return float(squares.mean()) / (2 * check_positive("sigma", sigma) ** 2)


def random_sign_kl_bound(eps: float, sigma: float, dimension: int) -> float:
    """Upper bound of the divergence in nats for an attack that ignores the image: +-eps in each number, at random.

        d KL(N(0, sigma^2) || 1/2 N(eps, sigma^2) + 1/2 N(-eps, sigma^2)),    close to d (eps/sigma)^4 / 4,

    again by joint convexity, over the image. ``eps`` is in the model frame, and no perturbed image is clipped.
    """
    a = check_not_negative("eps", eps) / check_positive("sigma", sigma)
    n = torch.linspace(-12, 12, 4801, dtype=torch.float64)
    density = torch.exp(-(n**2) / 2) / math.sqrt(2 * math.pi)
    log_cosh = (a * n).abs() + torch.log1p(torch.exp(-2 * (a * n).abs())) - math.log(2)
    mean = float((density * log_cosh).sum() * (n[1] - n[0]))
    return check_count("dimension", dimension) * (a**2 / 2 - mean)


def _mean(
    of: Callable[[Tensor], Tensor], p: GaussianMixture, q: GaussianMixture, sigma: float, noise: Noise
) -> Estimate:
    """Mean of ``of(x)`` (B,) over x of p_sigma: two opposite noises for each row, a part of the rows at a time."""
    for name, mixture in (("p", p), ("q", q)):
        check_part(name, mixture, GaussianMixture)
    check_count("the number of rows of noise", len(noise), 2)
    check_not_negative("sigma", sigma)
    shape, components = p.means.shape[1:], max(len(p.means), len(q.means))
    if shape != q.means.shape[1:]:
        raise ValueError(f"p and q must have one shape; got {tuple(shape)} and {tuple(q.means.shape[1:])}")
    rows = max(1, _ELEMENTS // (2 * components * shape.numel()))
    values = []
    for start in range(0, len(noise), rows):
        own = noise.rows(slice(start, start + rows))
        x0, _ = p.sample(own, _SAMPLE)
        n = sigma * own.normal(_DIFFUSE, shape, p.means.dtype)
        values.append(of(torch.cat((x0 + n, x0 - n))).double().view(2, -1).mean(0))
    found = torch.cat(values)
    return Estimate(float(found.mean()), float(found.std()) / math.sqrt(len(found)))
