"""The reverse SDE and the probability flow of a denoiser.

With D the denoiser, x_t = s y and x0_hat = D(y, sigma), the score is ``(s x0_hat - x_t) / (s sigma)^2`` and the
processes with the schedule's marginals, run from t down to 0, are (Song et al., arXiv 2011.13456)

    dx = [f x - g^2 score] dt + g dw        reverse SDE,
    dx = [f x - g^2 score / 2] dt           probability flow.
"""

from torch import Tensor

from common.diffusion.schedules import per_row
from common.diffusion.steps import Levels


def score(levels: Levels, x: Tensor, x0_hat: Tensor) -> Tensor:
    """grad log p_t(x) = (s x0_hat - x) / (s sigma)^2."""
    s, sigma = per_row(levels.scale, x), per_row(levels.sigma, x)
    return (s * x0_hat - x) / (s * sigma) ** 2


def reverse_drift(levels: Levels, x: Tensor, x0_hat: Tensor) -> Tensor:
    """``f x - g^2 score`` of the reverse SDE at ``levels``, (B,C,H,W)."""
    f, g = per_row(levels.drift, x), per_row(levels.diffusion, x)
    return f * x - g**2 * score(levels, x, x0_hat)


def flow_drift(levels: Levels, x: Tensor, x0_hat: Tensor) -> Tensor:
    """``f x - g^2 score / 2`` of the probability flow at ``levels``, (B,C,H,W)."""
    f, g = per_row(levels.drift, x), per_row(levels.diffusion, x)
    return f * x - g**2 / 2 * score(levels, x, x0_hat)
