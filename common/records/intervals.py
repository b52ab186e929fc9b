"""Exact Clopper-Pearson interval of a proportion."""

from scipy.special import betaincinv  # scipy.stats takes a second to import

Share = tuple[float, float, float]  # value, lower and upper end of its 95 % interval


def interval(successes: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Clopper-Pearson interval of a proportion, also for a real number of ``successes``.

    With k successes among n images and 1 - level = a: the a/2 quantile of Beta(k, n-k+1) and the 1 - a/2 quantile of
    Beta(k+1, n-k); 0 below at k = 0, 1 above at k = n.

    Draws of one image are not independent, images are. An average over draws is therefore a mean of n independent
    numbers m in [0,1], one per image, and k = n * mean is real. Their variance is at most mean (1 - mean), the
    binomial one, with equality when the draws of each image agree; so the binomial interval is, if anything, too
    wide. It stays sensible at 0 % and 100 %, where Student's collapses, and is exact for one draw per image.
    """
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"an interval needs 0 <= successes <= n and n >= 1; got {successes} of {n}")
    tail = (1 - level) / 2
    low = float(betaincinv(successes, n - successes + 1, tail)) if successes > 0 else 0.0
    high = float(betaincinv(successes + 1, n - successes, 1 - tail)) if successes < n else 1.0
    return low, high


def share(successes: float, n: int) -> Share:
    """Proportion with its 95 % interval; rounding above n is cut off."""
    return successes / n, *interval(min(successes, n), n)
