"""Euclidean projections on the intersection of a norm ball and the pixel box.

    argmin_x |x - adv|_2    subject to    |x - image|_p <= eps,  x in [0,1]^D

With d = adv - image, the minimiser of ``|x - adv|_2^2 / 2 + penalty(lambda)`` over the box is
``clamp(image + shrink(d, lambda), 0, 1)``, where shrink is ``d / (1 + lambda)`` for L2 and soft-thresholding at lambda
for L1. Its distance to ``image`` falls as lambda grows; bisection finds the smallest lambda that meets eps, and so the
exact projection on the intersection (which a projection on the ball followed by a clamp is not).

All take ``image`` in [0,1] and ``adv``, both (B,C,H,W) in pixels, and return (B,C,H,W).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

_BISECTIONS = 60  # halvings of an interval in float64: below its rounding


def project_linf(image: Tensor, adv: Tensor, eps: float) -> Tensor:
    """Projection on the L-inf ball: clamp to both boxes."""
    return torch.minimum(torch.maximum(adv, image - eps), image + eps).clamp(0, 1)


def project_l2(image: Tensor, adv: Tensor, eps: float) -> Tensor:
    """Projection on the L2 ball: ``d / (1 + lambda)``; without the box lambda = |d| / eps - 1."""
    high = ((adv.double() - image.double()).flatten(1).norm(dim=1) / eps - 1).clamp(min=0)
    return _bisect(image, adv, eps, 2, lambda d, multiplier: d / (1 + multiplier), high)


def project_l1(image: Tensor, adv: Tensor, eps: float) -> Tensor:
    """Projection on the L1 ball: soft-thresholding; at lambda = max |d| nothing is left."""
    high = (adv.double() - image.double()).flatten(1).abs().amax(1)
    return _bisect(image, adv, eps, 1, lambda d, multiplier: d.sign() * (d.abs() - multiplier).clamp(min=0), high)


PROJECTIONS: dict[float, Callable[[Tensor, Tensor, float], Tensor]] = {
    1.0: project_l1,
    2.0: project_l2,
    math.inf: project_linf,
}


def row_norm(rows: Tensor, norm: float) -> Tensor:
    """p-norm of each row, (B,D) -> (B,)."""
    length: Tensor = torch.linalg.vector_norm(rows, norm, dim=1)
    return length


def _bisect(
    image: Tensor, adv: Tensor, eps: float, norm: float, shrink: Callable[[Tensor, Tensor], Tensor], high: Tensor
) -> Tensor:
    """Bisection for the multiplier (B,) in [0, ``high``]; at ``high`` the ball is met even without the box."""
    centre, offset = image.double().flatten(1), (adv.double() - image.double()).flatten(1)
    low = torch.zeros_like(high)

    def shrunk(multiplier: Tensor) -> Tensor:
        return (centre + shrink(offset, multiplier[:, None])).clamp(0, 1) - centre

    high = torch.where(row_norm(shrunk(low), norm) <= eps, low, high)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        inside = row_norm(shrunk(middle), norm) <= eps
        low, high = torch.where(inside, low, middle), torch.where(inside, middle, high)
    return (centre + shrunk(high)).to(adv.dtype).view_as(adv).clamp(0, 1)
