"""Clopper-Pearson lower bound, and the counts that a certified radius needs."""

from bisect import bisect_left
from functools import lru_cache

from scipy.stats import beta, norm


@lru_cache(maxsize=2**16)
def clopper_pearson_lower(k: int, n: int, alpha: float) -> float:
    """One-sided Clopper-Pearson lower bound: p with ``P(Binomial(n, p) >= k) = alpha``; 0 for k = 0.

    That p is the alpha quantile of Beta(k, n - k + 1). It exceeds the true probability with probability at most alpha
    over the samples.
    """
    if n < 1 or not 0 <= k <= n:
        raise ValueError(f"counts must satisfy 0 <= k <= n and n >= 1; got k={k}, n={n}")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be in (0,1); got {alpha}")
    return 0.0 if k == 0 else float(beta.ppf(alpha, k, n - k + 1))


@lru_cache
def needed_probability(sigma: float, radius: float) -> float:
    """Phi(radius / sigma): the lower bound that certifies ``radius``; above 1/2 even for radius 0."""
    return max(float(norm.cdf(radius / sigma)), 0.5 + 1e-12)  # at 1/2 smoothing abstains


@lru_cache
def needed_count(sigma: float, radius: float, n: int, alpha: float) -> int:
    """Smallest count k of n samples that certifies ``radius``: k* = min {k : clopper_pearson_lower(k, n, alpha) >= p}.

    p is `needed_probability`. n + 1 if no count suffices.
    """
    return bisect_left(  # the bound increases with k
        range(n + 1), needed_probability(sigma, radius), key=lambda k: clopper_pearson_lower(k, n, alpha)
    )
