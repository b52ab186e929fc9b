"""Projection on a hyperplane within the pixel box, in L-inf, L2 and L1 (Croce & Hein, arXiv 1907.02044)."""

import torch
from torch import Tensor


def project_on_hyperplane(x: Tensor, w: Tensor, gap: Tensor, norm: float) -> Tensor:
    """The shortest d (B,D) in the norm with ``w.d = gap`` and x + d in [0,1]^D; x, w (B,D), gap (B,), float64.

    Coordinate i closes the gap by |w_i| per unit and can move by at most ``room`` r_i. L1 moves the coordinates with
    the largest |w_i| first. For L2 and L-inf ``|d_i| = min(s a_i, r_i)`` with a = |w| or 1, and the scale s follows
    exactly from sorting ``r / a``, where coordinates reach the box one after the other. Where the hyperplane does not
    meet the box, x + d is the corner nearest to it.
    """
    towards = w.sign() * gap.sign()[:, None]
    slope, missing = w.abs(), gap.abs()[:, None]
    room = torch.where(towards > 0, 1 - x, x) * (towards != 0)
    if norm == 1:
        order = slope.argsort(dim=1, descending=True)
        gain, space = slope.gather(1, order), room.gather(1, order)
        before = (gain * space).cumsum(1) - gain * space
        spent = ((missing - before) / gain.clamp(min=1e-300)).clamp(min=0).minimum(space)
        return towards * torch.zeros_like(x).scatter(1, order, spent)
    pace = slope if norm == 2 else torch.ones_like(slope)
    full = torch.where(room > 0, room / pace.clamp(min=1e-300), 0.0)
    order = full.argsort(dim=1)
    reached, gain, speed = (each.gather(1, order) for each in (full, slope * room, slope * pace))
    closed = gain.cumsum(1) - gain
    left = speed.flip(1).cumsum(1).flip(1)
    scale = ((missing - closed) / left.clamp(min=1e-300)).clamp(min=0)
    place = (scale > reached).sum(1, keepdim=True).clamp(max=x.shape[1] - 1)
    return towards * (scale.gather(1, place) * pace).minimum(room)
