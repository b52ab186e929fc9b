"""Gradient ascent with momentum and a step size that falls to zero, from given starts."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from common.robustness.attacks.best_iterates import BestIterates
from common.robustness.attacks.eot import EOTLoss, per_image, usable
from common.robustness.attacks.pgd import PATHS
from common.robustness.losses import Loss, TargetedLoss
from common.robustness.threats.norm_ball import ThreatModel

_MOMENTUM = 0.75


@dataclass(frozen=True)
class Climb:
    """``m <- 0.75 m + g / mean|g|,  x <- project(x + eta_k direction(m))``, eta_k = eta_0 (1 + cos(pi k / K)) / 2.

    g is the gradient of the EOT-mean ``loss``, with fresh draws at each of the K = ``steps`` steps. eta_0 makes the
    steps add up to ``path`` times PGD's default path, which is 2.5 eps in L-inf, 5 eps in L2 and 20 eps in L1. A small
    last step averages the noise of the draws away, so that the last point is the result against a randomised
    classifier; against a deterministic one it is the misclassified point with the highest loss, or the highest of all.
    """

    steps: int
    loss: Loss | TargetedLoss
    path: float = 1.0

    def __call__(self, eot: EOTLoss, ball: ThreatModel, starts: "Starts", best: BestIterates | None = None) -> Tensor:
        """The points (A,C,H,W) that are reached from ``starts``; ``best`` counts the steps."""
        image, x, rows = starts.image, starts.x, starts.rows
        momentum, reached, highest = torch.zeros_like(x), x, torch.full_like(x.flatten(1)[:, 0], -torch.inf)
        broken = torch.zeros_like(highest, dtype=torch.bool)
        first = 2 * self.path * PATHS[ball.norm] * ball.eps / (self.steps + 1)  # the cosine adds up to (K + 1) / 2
        for step in range(self.steps + 1):
            last = step == self.steps
            if last and not eot.deterministic:
                return x
            estimate = eot(x, self.loss, f"{starts.name} step {step}", rows, not last, starts.target)
            if best is not None:
                best.count(rows, estimate)
            wrong = estimate.accuracy < 1
            higher = (wrong & ~broken) | ((wrong == broken) & (estimate.loss > highest))
            highest, broken = torch.where(higher, estimate.loss, highest), broken | wrong
            reached = torch.where(per_image(higher, x), x, reached)
            if estimate.gradient is not None:
                gradient = usable(estimate.gradient)
                mean = gradient.flatten(1).abs().mean(1).clamp(min=torch.finfo(x.dtype).tiny)
                momentum = _MOMENTUM * momentum + gradient / per_image(mean, x)
                size = first * (1 + math.cos(math.pi * step / self.steps)) / 2
                x = ball.project(image, ball.ascend(x, momentum, size))
        return reached


@dataclass(frozen=True)
class Starts:
    """Points ``x`` (A,C,H,W) near the images ``rows`` (A,) of a batch, which are ``image`` (A,C,H,W).

    ``target`` has a class for each, (A,), or is None; ``name`` is that of the noise of the climb.
    """

    image: Tensor
    x: Tensor
    rows: Tensor
    name: str
    target: Tensor | None = None

    def select(self, rows: Tensor) -> "Starts":
        """The starts in ``rows`` (A,) of this batch alone."""
        target = None if self.target is None else self.target[rows]
        return Starts(self.image[rows], self.x[rows], self.rows[rows], self.name, target)
