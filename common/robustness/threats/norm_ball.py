"""Norm balls in pixel space: L-inf, L2 and L1."""

import math
from copy import copy

import torch
from torch import Tensor

from common.checks.settings import SHORTEST, check_ratio
from common.noise import Noise
from common.robustness.threats.projection import PROJECTIONS, row_norm
from common.robustness.threats.threat import Threat, in_box, require_threat

_NAMES = {1.0: "L1", 2.0: "L2", math.inf: "Linf"}
LARGEST = {1.0: 1000.0, 2.0: 100.0, math.inf: 1.0}
"""Largest radii by norm, in pixel units: larger ones are in units of 0..255."""


class ThreatModel(Threat):
    """``{ adv in [0,1]^D : ||adv - image||_p <= eps }``, p in {1, 2, inf}, eps in pixel units, D = C*H*W.

    ``norm`` may be written 1, 2, ``inf``, ``"l2"``, ``"Linf"``; ``eps`` also as ``"8/255"``. For L-inf
    ``0 < eps <= 1``. For L2 and L1 the largest meaningful radius grows with the image, so only values in 0..255 units
    are refused: L2 above 100, L1 above 1000.
    """

    norm: float
    constructor = "a norm, ThreatModel(norm, eps)"

    def __init__(self, norm: float | str, eps: float | str):
        self.norm = _norm(norm)
        self.eps = check_ratio("eps", eps)
        largest = LARGEST[self.norm]
        if 0 < self.eps < SHORTEST:
            raise ValueError(f"eps must be at least {SHORTEST:.3g}, else no pixel changes in float32; got {eps!r}")
        if not 0 < self.eps <= largest:
            ratio = f" Write {self.eps:g}/255." if self.eps > largest else ""
            raise ValueError(f"eps must be in pixel units, 0 < eps <= {largest:g}; got {self.eps}.{ratio}")

    @property
    def name(self) -> str:
        """``"L1"``, ``"L2"`` or ``"Linf"``."""
        return _NAMES[self.norm]

    def resized(self, eps: float) -> "ThreatModel":
        """The ball of another radius, which may exceed what the constructor accepts as a threat."""
        ball = copy(self)
        ball.eps = eps
        return ball

    def distance(self, image: Tensor, adv: Tensor) -> Tensor:
        """``||adv - image||_p`` per image, (B,) float64."""
        return row_norm((adv.double() - image.double()).flatten(1), self.norm)

    def check(self, image: Tensor, adv: Tensor) -> Tensor:
        """True where adv is allowed, (B,) bool: finite, exactly in [0,1], and in the ball up to rounding.

        The tolerance covers float32 rounding: four roundings of a coordinate in [0,1] to the nearest multiple of 2^-24,
        on all D coordinates, and a relative error of 1e-6 in eps: ``distance <= (1 + 1e-6) eps + 2^-22 D^(1/p)``. For
        L-inf that is 6e-5 of one grey level.
        """
        dimension = image.shape[1:].numel()
        bound = self.eps * (1 + 1e-6) + 2.0**-22 * dimension ** (1 / self.norm)
        near: Tensor = self.distance(image, adv) <= bound
        return in_box(adv) & near

    def check_dimension(self, dimension: int) -> None:
        """Raise ``ValueError`` for an eps beyond the pixel range of D = ``dimension`` pixels, which any image meets."""
        diameter = dimension ** (1 / self.norm)
        if self.eps > diameter:
            raise ValueError(
                f"eps = {self.eps:g} in {self.name} allows every image of {dimension} pixels, whose largest distance "
                f"is {diameter:.4g}. Write {self.eps:g}/255"
            )

    def project(self, image: Tensor, adv: Tensor) -> Tensor:
        """The nearest allowed image in the Euclidean distance (`projection`); ``image`` must lie in [0,1]."""
        return PROJECTIONS[self.norm](image, adv, self.eps)

    def random_start(self, image: Tensor, noise: Noise, step: int = 0) -> Tensor:
        """A point drawn uniformly from the eps-ball around each image, then clamped to [0,1], which keeps it inside.

        Ball of L2: the first D of D + 2 coordinates of a uniform point on a sphere. Ball of L1: D + 1 exponential
        variables over their sum, without the last, with random signs.
        """
        shape, dimension = image.shape[1:], image.shape[1:].numel()
        if self.norm == math.inf:
            inside = 2 * noise.uniform(step, shape, image.dtype) - 1
            return self.project(image, image + self.eps * inside)
        if self.norm == 2:
            z = noise.normal(step, (dimension + 2,))
        else:
            u = 2 * noise.uniform(step, (dimension + 1,)) - 1
            z = -u.sign() * torch.log1p(-u.abs())
        inside = (z / row_norm(z, self.norm)[:, None])[:, :dimension]
        return (image + self.eps * inside.to(image.dtype).view_as(image)).clamp(0, 1)

    def ascend(self, adv: Tensor, gradient: Tensor, step_size: float | Tensor) -> Tensor:
        """A step of length ``step_size`` in this norm (L1: see below) along the steepest ascent; not projected.

        L-inf: the sign of the gradient. L2: the gradient over its length. For L1 the steepest direction is a single
        coordinate, which is slow; here all coordinates follow the gradient, the largest moving by ``step_size``, and
        the exact projection that comes next keeps the few that pay. In L2, entries that would push a pixel out of [0,1]
        are set to zero first, else the box would take back most of the step. Images whose gradient is zero do not move.
        """
        if self.norm == 2:
            held = ((adv <= 0) & (gradient < 0)) | ((adv >= 1) & (gradient > 0))
            gradient = torch.where(held, 0.0, gradient)
        return adv + step_size * self.direction(gradient)

    def direction(self, gradient: Tensor) -> Tensor:
        """The direction of ``ascend`` away from the box."""
        if self.norm == 2:
            return unit(gradient)
        g = gradient.flatten(1)
        return (g.sign() if self.norm == math.inf else over_largest(g)).view_as(gradient)


def require_norm_ball(threat: Threat, attack: str) -> ThreatModel:
    """The threat as a norm ball; ``ValueError`` in the name of ``attack`` if it is another."""
    return require_threat(threat, ThreatModel, attack)


def unit(gradient: Tensor) -> Tensor:
    """The gradient over its Euclidean length, per image, without overflow or underflow; zero stays zero."""
    rows = over_largest(gradient.flatten(1))
    return (rows / row_norm(rows, 2)[:, None].clamp(min=1)).view_as(gradient)


def over_largest(rows: Tensor) -> Tensor:
    """Rows (B,D) over their largest absolute entry; zero rows stay zero."""
    return rows / rows.abs().amax(1, keepdim=True).clamp(min=torch.finfo(rows.dtype).tiny)


def _norm(norm: float | str) -> float:
    text = "" if isinstance(norm, bool) else str(norm).lower().removeprefix("l")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if value not in _NAMES or (isinstance(norm, int) and norm not in _NAMES):  # float("1000…") is infinite
        raise ValueError(f"norm must be 1, 2 or inf; got {norm!r}")
    return value
