"""Bounds on expected logits: empirical Bernstein, the weak law's slopes and the strong law. See `ndc.lipschitz`."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.special import ndtr, ndtri

from common.units import sigma_to_pixel
from ndc.bounded import BoundedDiffusionClassifier


def slopes(dc: BoundedDiffusionClassifier, image: Tensor) -> Tensor:
    """Weak law: Lipschitz constants (T,) of the nodes' parts of a logit difference, per pixel distance from an image.

    At an image (1,C,H,W) 2 (w_i / temperature) (2 r_i / (sqrt(2 pi) sigma_i) + 4 sqrt(D)): 2, since distances double in
    the model frame; 2 r_i, since differences lie within r_i of 0.
    """
    weight = dc.bound.weight / dc.temperature(image.shape[1:].numel())
    target = 4 * math.sqrt(image.shape[1:].numel())
    return 2 * weight * (2 * dc.term_bounds(image) / (math.sqrt(2 * math.pi) * dc.bound.sigma) + target)


def mean_lower(values: Tensor, width: float, level: float) -> Tensor:
    """Lower confidence bound on E v from n independent ``values`` (n,...) in an interval of ``width``.

        mean - sqrt(2 V ln(2 / level) / n) - 7 width ln(2 / level) / (3 (n - 1)),   V the sample variance

    It exceeds E v with probability at most ``level``. The empirical Bernstein inequality (Maurer and Pontil,
    arXiv 0907.3740, theorem 4).
    """
    n, log = len(values), math.log(2 / level)
    return values.mean(0) - (2 * values.var(0) * log / n).sqrt() - 7 * width * log / (3 * (n - 1))


def quantiles(share: Tensor, level: float) -> tuple[Tensor, Tensor]:
    """Phi^-1 of a lower and of an upper bound on the means of draws (T,n,m), clipped to [0,1]: two (T,m)."""
    draws = share.clamp(0, 1).transpose(0, 1)
    return ndtri(mean_lower(draws, 1.0, level).clamp(min=0)), ndtri(-mean_lower(-draws, 1.0, level).clamp(min=-1))


def largest_decrease(low: Tensor, high: Tensor, a: Tensor) -> Tensor:
    """Strong law: largest decrease of the mean p of a function in [0,1] when the Gaussian moves by a.

    p is known up to low <= Phi^-1(p) <= high. The decrease p - Phi(Phi^-1(p) - a) increases up to Phi^-1(p) = a / 2,
    then decreases.
    """
    worst = (a / 2).clamp(low, high)
    decrease: Tensor = ndtr(worst) - ndtr(worst - a)
    return decrease


def largest_increase(low: Tensor, high: Tensor, a: Tensor) -> Tensor:
    """Strong law: largest increase, that is the largest decrease from a mean that has increased already."""
    return largest_decrease(low + a, high + a, a)


@dataclass(frozen=True)
class StrongLaw:
    """Largest loss of logit differences at a distance from the image, by the strong law.

    Vectors over T nodes are columns (T,1); ``ahead``, ``behind``: bounds (T,K-1) on Phi^-1 of the means of g^+ / r and
    g^- / r; ``apart``: upper bound (T,1) on that of q / sqrt(D). Model frame, float64.
    """

    sigma: Tensor
    weight: Tensor
    reach: Tensor
    ahead: tuple[Tensor, Tensor]
    behind: tuple[Tensor, Tensor]
    apart: Tensor
    root: float
    temperature: float

    @classmethod
    def of(
        cls, dc: BoundedDiffusionClassifier, image: Tensor, pairs: Tensor, losses: Tensor, level: float
    ) -> "StrongLaw":
        """From draws of the pairs' terms (T,n,K-1) and of the losses (T,n,K); ``level``: chance of a wrong bound."""
        (nodes, _, classes), root = losses.shape, math.sqrt(image.shape[1:].numel())
        sigma, weight = dc.bound.sigma[:, None], dc.bound.weight[:, None]
        reach = weight * dc.term_bounds(image)[:, None]
        each = level / (nodes * (2 * classes * (classes - 1) + 1))
        ahead, behind = (quantiles(sign * pairs / reach[:, None], each) for sign in (1, -1))
        farthest = (losses / weight[:, None]).sqrt().topk(2, dim=2).values.mean(2, keepdim=True)
        apart = quantiles(farthest / root, each)[1]
        return cls(sigma, weight, reach, ahead, behind, apart, root, dc.temperature(image.shape[1:].numel()))

    def loss(self, delta: float) -> Tensor:
        """Largest decrease (K-1,) of the logit differences at distance ``delta`` (model frame)."""
        a = delta / self.sigma
        noise = self.reach * (largest_decrease(*self.ahead, a) + largest_increase(*self.behind, a))
        target = 4 * delta * self.root * self.weight * ndtr(self.apart + a)
        loss: Tensor = (noise + target).sum(0) / self.temperature
        return loss

    def radius(self, gap: Tensor) -> float:
        """Distance (pixels) up to which the logit differences ``gap`` (K-1,) stay positive."""
        return sigma_to_pixel(last_positive(lambda delta: float((gap - self.loss(delta)).min()), 2 * self.root))


def last_positive(function: Callable[[float], float], upper: float, steps: int = 50) -> float:
    """A point below the zero of a decreasing ``function``, by bisection of [0, upper] to within upper / 2^steps.

    The function is positive at 0.
    """
    low, high = 0.0, upper
    for _ in range(steps):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) > 0 else (low, middle)
    return low
