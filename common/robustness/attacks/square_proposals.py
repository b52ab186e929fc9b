"""Random proposals of the Square attack: perturbations changed in a window or two."""

import math
from functools import cache

import torch
from torch import Tensor

from common.noise import Noise
from common.robustness.attacks.eot import per_image
from common.robustness.threats.norm_ball import ThreatModel

_BLOCK = 64  # proposals whose random numbers are drawn at once
_GRID = 5  # tiles per side of the start


class SquareProposals:
    """Random points of the ball, each drawn from its image's row of ``noise``.

    Andriushchenko et al., arXiv 1912.00049: algorithm 2 for L-inf, algorithm 3 for L2, and with p = 1 for L1.
    """

    def __init__(self, ball: ThreatModel, image: Tensor, noise: Noise) -> None:
        self._ball, self._image, self._noise = ball, image, noise.stream("proposals")
        self._lines = [torch.arange(size, device=image.device) for size in image.shape[2:]]
        self._block, self._drawn = -1, image

    def first(self) -> Tensor:
        """Start of the search, (B,C,H,W). L-inf: columns of eps with random signs. L2 and L1: five by five bumps with
        random signs and orientations, of total norm eps."""
        channels, height, width = self._image.shape[1:]
        if self._ball.norm == math.inf:
            moved = self._ball.eps * _sign(self._noise.uniform(0, (channels, 1, width), self._image.dtype))
            return self._ball.project(self._image, self._image + moved)
        side = max(min(height, width) // _GRID, 1)
        rows, columns = (line // side for line in self._lines)
        u = self._noise.uniform(0, (channels + 1, int(rows[-1]) + 1, int(columns[-1]) + 1), torch.float64)
        u = u[:, :, rows][..., columns]
        shapes = _bumps(side).to(u.device)[:, self._lines[0] % side][..., self._lines[1] % side]
        bumps = torch.where(u[:, :1] < 0.5, shapes[0], shapes[1]) * _sign(u[:, 1:])
        length = torch.linalg.vector_norm(bumps.flatten(1), self._ball.norm, dim=1)
        return self._placed(self._image, self._ball.eps * bumps / per_image(length, bumps))

    def next(self, rows: Tensor, points: Tensor, query: int, side: int) -> Tensor:
        """Proposals (A,C,H,W) in place of ``points`` of the images ``rows``; windows have ``side`` pixels a side."""
        u = self._uniforms(query, 5 + points.shape[1])[rows]
        image = self._image[rows]
        window, *inside = self._window(u[:, 0:2], side)
        sign = _sign(u[:, 5:])[..., None, None]
        if self._ball.norm == math.inf:
            moved = torch.where(window, image + self._ball.eps * sign.to(image.dtype), points)
            return self._ball.project(image, moved)
        other, *_ = self._window(u[:, 2:4], side)
        turned = (u[:, 4] < 0.5).long()[:, None, None]
        bump = _bumps(side).to(u.device)[turned, inside[0][:, :, None], inside[1][:, None]][:, None]
        return self._placed(image, self._moved(points.double() - image, window, other, sign * bump))

    def _moved(self, offset: Tensor, window: Tensor, other: Tensor, bump: Tensor) -> Tensor:
        """The offsets with the norm of the window ``other``, and what the ball leaves, moved to ``window``."""
        p = self._ball.norm
        power = offset.abs() ** p
        unused = (self._ball.eps**p - power.sum((1, 2, 3))).clamp(min=0) / offset.shape[1]
        available = ((power * (window | other)).sum((2, 3)) + unused[:, None]) ** (1 / p)
        wanted = _unit(torch.where(window, bump + _unit(torch.where(window, offset, 0.0), p), 0.0), p)
        return torch.where(window, available[..., None, None] * wanted, torch.where(other, 0.0, offset))

    def _placed(self, image: Tensor, offset: Tensor) -> Tensor:
        return (image.double() + offset).clamp(0, 1).to(image.dtype)

    def _window(self, u: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
        """A window per image at a uniform place, (A,1,H,W) bool, with row (A,H) and column (A,W) indices inside it."""
        places = []
        for line, where in zip(self._lines, u.unbind(1), strict=True):
            corner = (where * (len(line) - side + 1)).floor().long()
            places.append(line - corner[:, None])
        inside = [(place >= 0) & (place < side) for place in places]
        window = (inside[0][:, :, None] & inside[1][:, None])[:, None]
        return window, places[0].clamp(0, side - 1), places[1].clamp(0, side - 1)

    def _uniforms(self, query: int, count: int) -> Tensor:
        """Uniform numbers in (0,1) of a proposal, (B, count) float64."""
        block, place = divmod(query, _BLOCK)
        if block != self._block:
            self._block = block
            self._drawn = self._noise.stream("windows").uniform(block, (_BLOCK, count), torch.float64)
        return self._drawn[:, place]


@cache
def _bumps(side: int) -> Tensor:
    """A positive beside a negative bump, and its transpose, (2, side, side) float64."""
    left, right = _bump(side, side // 2), _bump(side, side - side // 2)
    pair = torch.cat((left, -right), 1)
    return torch.stack((pair, pair.T))


def _bump(height: int, width: int) -> Tensor:
    """``sum_{k=0}^{M} 1 / (n + 1 - k)^2`` with n = height // 2 and M = n - the L-inf distance from the centre,
    (height, width) float64."""
    n = height // 2
    rows, columns = torch.arange(height) - n, torch.arange(width) - width // 2
    steps = n - torch.maximum(rows.abs()[:, None], columns.abs()[None])
    terms = 1 / (n + 1 - torch.arange(n + 1, dtype=torch.float64)) ** 2
    sums: Tensor = terms.cumsum(0)
    return sums[steps]


def _sign(u: Tensor) -> Tensor:
    return torch.where(u < 0.5, -1.0, 1.0).to(u.dtype)


def _unit(window: Tensor, p: float) -> Tensor:
    """The window (A,C,H,W) over its p-norm, per channel; zero stays zero."""
    length: Tensor = torch.linalg.vector_norm(window, p, dim=(2, 3), keepdim=True)
    return window / length.clamp(min=torch.finfo(window.dtype).tiny)
