"""Distance between a purified and the clean image: DiffPure's theorem 3.2 (arXiv 2205.07460), and what it leaves out.

The reverse VP-SDE from x_{t*} = s (x + eps_a + sigma z_0) is linear but for the score. With gamma the integral of
beta / 2, for which exp(2 gamma) - 1 = sigma(t*)^2,

    x_hat(0) - x = eps_a + sigma(t*) (z_0 + z_1) + int_0^{t*} exp(gamma(t)) beta(t) s_theta(x_t, t) dt.

With ||s_theta|| <= C_s / 2 the integral is at most (exp(gamma) - 1) C_s. The theorem as we know it, not verified
in the paper, has gamma C_s: the integral without the factor exp(gamma(t)), by which the linear drift enlarges each part
of the score. That is less, by 3 % at t* = 0.1, and too little for a constant score. All lengths are Euclidean norms of
images in the model frame.
"""

import math

import torch

from common.checks.settings import check_count, check_not_negative, check_number, check_positive
from common.diffusion.schedules import Schedule


def drift_integral(schedule: Schedule, t_star: float) -> float:
    """gamma(t*) = int_0^{t*} beta(t) / 2 dt = -log s(t*) of a variance-preserving schedule."""
    t = torch.tensor(check_positive("t_star", t_star), dtype=torch.float64)
    scale, sigma = float(schedule.scale(t)), float(schedule.sigma(t))
    if not math.isclose(scale**2 * (1 + sigma**2), 1, rel_tol=1e-6):
        raise ValueError(
            f"the bound needs a variance-preserving schedule, VP() or DDPM(); got {type(schedule).__name__}"
        )
    return math.log1p(sigma**2) / 2


def noise_radius(dimension: int, delta: float) -> float:
    """C_delta = sqrt(2 d + 4 sqrt(d log(1/delta)) + 4 log(1/delta)): P(||z_0 + z_1|| > C_delta) <= delta, d numbers."""
    d, tail = check_count("dimension", dimension), -math.log(check_number("delta", delta, above=0, below=1))
    return math.sqrt(2 * d + 4 * math.sqrt(d * tail) + 4 * tail)


def reconstruction_bound(
    perturbation: float, gamma: float, c_delta: float, c_s: float, published: bool = False
) -> float:
    """Bound of ||x_hat(0) - x|| that holds with probability 1 - delta or more:

        ||eps_a|| + sqrt(exp(2 gamma) - 1) C_delta + (exp(gamma) - 1) C_s,

    for every s_theta with ||s_theta(x_t, t)|| <= C_s / 2. ``published``: with gamma C_s as the paper states it, which a
    constant score of norm C_s / 2 exceeds. ``perturbation`` is ||eps_a|| in the model frame, twice that in pixels.
    """
    first = check_not_negative("perturbation", perturbation)
    weight = check_not_negative("gamma", gamma) if published else math.expm1(check_not_negative("gamma", gamma))
    noise = math.sqrt(math.expm1(2 * gamma)) * check_not_negative("c_delta", c_delta)
    return first + noise + weight * check_not_negative("c_s", c_s)


def mean_reconstruction_bound(perturbation: float, sigma: float, dimension: int) -> float:
    """Bound of the mean distance, without C_s: ||eps_a|| + (sqrt(2) + 2) sigma sqrt(d), for sigma = sigma(t*).

    C_s is no constant of images: the norm of the score grows as sqrt(d) / sigma towards t = 0, and the supremum bounds
    nothing. The mean of the integral is at most 2 sigma sqrt(d), for the exact score along a process with the marginals
    p_t, as E||score||^2 <= d / (s sigma)^2. For an attacked image these marginals hold as far as the contraction goes.
    """
    first, level = check_not_negative("perturbation", perturbation), check_not_negative("sigma", sigma)
    return first + (math.sqrt(2) + 2) * level * math.sqrt(check_count("dimension", dimension))
