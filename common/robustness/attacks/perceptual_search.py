"""Distances of perceptual threats, and points on a line that are within the bound."""

import torch
from torch import Tensor

from common.robustness.attacks.eot import chunks, per_image
from common.robustness.threats.perceptual import Perceptual

_TRIALS = 10  # points on the line; every other halves the interval


def distance_with_gradient(threat: Perceptual, image: Tensor, adv: Tensor, chunk: int | None) -> tuple[Tensor, Tensor]:
    """The distance (A,) of ``adv`` and its gradient in ``adv`` (A,C,H,W), at most ``chunk`` rows at a time."""
    distances, slopes = [], []
    for part in chunks(len(image), chunk):
        x = adv[part].clone().requires_grad_()
        distance = threat.distance(image[part], x)
        distances.append(distance.detach())
        slopes.append(torch.autograd.grad(distance.sum(), x)[0])
    return torch.cat(distances), torch.cat(slopes)


def within_bound(threat: Perceptual, image: Tensor, adv: Tensor, distance: Tensor, chunk: int | None) -> Tensor:
    """``adv`` where its ``distance`` (A,) is within eps, else the farthest point found on the line to it.

    The search ends at a distance of 0.97 to 1 eps. The square root of the distance is nearly linear along the line, so
    trials alternate between the secant's root for 0.985 eps and the midpoint, which halves the interval.
    """
    best = torch.where(per_image(distance <= threat.eps, adv), adv.clamp(0, 1), image)
    (rows,) = (~(distance <= threat.eps)).nonzero(as_tuple=True)
    low, high = torch.zeros_like(distance[rows]), torch.ones_like(distance[rows])
    inside, outside = torch.zeros_like(low), distance[rows].nan_to_num(torch.inf, torch.inf)
    for trial in range(_TRIALS):
        if not len(rows):
            break
        share = (low + high) / 2
        if trial % 2 == 0:
            line = ((0.985 * threat.eps) ** 0.5 - inside.sqrt()) / (outside.sqrt() - inside.sqrt())
            share = torch.where(outside < torch.inf, low + line * (high - low), share)
        point = (image[rows] + per_image(share.to(image.dtype), image) * (adv[rows] - image[rows])).clamp(0, 1)
        distances = [threat.distance(image[rows][part], point[part]) for part in chunks(len(rows), chunk)]
        trial_distance = torch.cat(distances)
        near = trial_distance <= threat.eps
        best[rows] = torch.where(per_image(near, point), point, best[rows])
        low, inside = torch.where(near, share, low), torch.where(near, trial_distance, inside)
        high, outside = torch.where(near, high, share), torch.where(near, outside, trial_distance)
        going = ~(inside >= 0.97 * threat.eps)
        rows, low, high, inside, outside = (each[going] for each in (rows, low, high, inside, outside))
    return best
