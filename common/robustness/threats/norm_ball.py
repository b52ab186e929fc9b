"""The threat model: which images an attacker may return."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from common.noise import Noise
from common.units import parse_number

T = TypeVar("T", bound="Threat")

_NAMES = {1.0: "L1", 2.0: "L2", math.inf: "Linf"}
_LARGEST = {1.0: 1000.0, 2.0: 100.0, math.inf: 1.0}
_BISECTIONS = 60  # halves of an interval in float64: below its rounding


class Threat(ABC):
    """Which images an attacker may return: ``name`` of the distance, its bound ``eps``, and how it is measured.

    ``written`` is what messages call threats of this kind.
    """

    eps: float
    written: ClassVar[str] = "a threat of its own"

    @property
    @abstractmethod
    def name(self) -> str:
        """What the distance is called in tables."""

    @abstractmethod
    def distance(self, image: Tensor, adv: Tensor) -> Tensor:
        """How far ``adv`` is from ``image``, (B,) float64."""

    @abstractmethod
    def check(self, image: Tensor, adv: Tensor) -> Tensor:
        """Whether each adv is allowed, (B,) bool: finite, in [0,1], and within ``eps``."""

    def random_like(self, image: Tensor, adv: Tensor, noise: Noise) -> Tensor:
        """A random image about as far from ``image`` as ``adv``: what the same size does without an attack.

        ``image`` plus the perturbation ``adv - image`` with its values at random places and with random signs, which is
        as long in every norm. A sign that would leave [0,1] is turned round, and what leaves it both ways is cut.
        """
        size = image[0].numel()
        places = noise.uniform(0, (size,), torch.float64).argsort(1)
        sign = (noise.uniform(1, (size,)) < 0.5).to(image.dtype) * 2 - 1
        centre = image.flatten(1)
        offset = (adv - image).flatten(1).gather(1, places) * sign
        inside = (centre + offset >= 0) & (centre + offset <= 1)
        return (centre + torch.where(inside, offset, -offset)).clamp(0, 1).view_as(image)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name}, eps={self.eps:.4g})"


class ThreatModel(Threat):
    """``{ adv in [0,1]^D : ||adv - image||_p <= eps }``, p in {1, 2, inf}, eps in pixel units, D = C*H*W.

    ``norm`` may be written 1, 2, ``inf``, ``"l2"``, ``"Linf"``; ``eps`` also as ``"8/255"``. For L-inf
    ``0 < eps <= 1``. For L2 and L1 the largest meaningful radius grows with the image, so only values that must
    have been meant in 0..255 units are refused: L2 above 100, L1 above 1000.
    """

    norm: float
    written = "a norm, ThreatModel(norm, eps)"

    def __init__(self, norm: float | str, eps: float | str):
        self.norm = _norm(norm)
        self.eps = parse_number(eps)
        largest = _LARGEST[self.norm]
        if not 0 < self.eps <= largest:
            ratio = f" Write {self.eps:g}/255." if self.eps > largest else ""
            raise ValueError(f"eps must be in pixel units, 0 < eps <= {largest:g}; got {self.eps}.{ratio}")

    @property
    def name(self) -> str:
        """``"L1"``, ``"L2"`` or ``"Linf"``."""
        return _NAMES[self.norm]

    def distance(self, image: Tensor, adv: Tensor) -> Tensor:
        """``||adv - image||_p`` per image, (B,) float64."""
        return _length((adv.double() - image.double()).flatten(1), self.norm)

    def check(self, image: Tensor, adv: Tensor) -> Tensor:
        """Whether each adv is allowed, (B,) bool: finite, exactly in [0,1], and in the ball up to rounding.

        The tolerance is what float32 does to an honest attack: four roundings of a coordinate in [0,1] to the
        nearest multiple of 2^-24, on all D coordinates, and a relative error of 1e-6 in eps:
        ``distance <= (1 + 1e-6) eps + 2^-22 D^(1/p)``. For L-inf that is 6e-5 of one grey level.
        """
        dimension = image[0].numel()
        bound = self.eps * (1 + 1e-6) + 2.0**-22 * dimension ** (1 / self.norm)
        in_box = ((adv >= 0) & (adv <= 1)).flatten(1).all(1)
        near: Tensor = self.distance(image, adv) <= bound
        return in_box & near

    def project(self, image: Tensor, adv: Tensor) -> Tensor:
        """The nearest allowed image in the Euclidean distance; ``image`` must lie in [0,1].

        L-inf: clamp to both boxes. L2 and L1: with d = adv - image, the minimiser of
        ``|x - adv|^2 / 2 + lambda (penalty of the norm)`` over the box is ``clamp(image + shrink(d, lambda), 0, 1)``,
        where shrink is ``d / (1 + lambda)`` for L2 and soft-thresholding at lambda for L1. The distance to ``image``
        falls as lambda grows; bisection finds the smallest lambda that meets eps, and so the exact projection on
        the intersection (which a projection on the ball followed by a clamp is not).
        """
        if self.norm == math.inf:
            return torch.minimum(torch.maximum(adv, image - self.eps), image + self.eps).clamp(0, 1)
        centre, offset = image.double().flatten(1), (adv.double() - image.double()).flatten(1)
        shrink, high = self._shrinking(offset)
        low = torch.zeros_like(high)

        def shrunk(multiplier: Tensor) -> Tensor:
            return (centre + shrink(offset, multiplier[:, None])).clamp(0, 1) - centre

        high = torch.where(_length(shrunk(low), self.norm) <= self.eps, low, high)
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            inside = _length(shrunk(middle), self.norm) <= self.eps
            low, high = torch.where(inside, low, middle), torch.where(inside, middle, high)
        return (centre + shrunk(high)).to(adv.dtype).view_as(adv).clamp(0, 1)

    def _shrinking(self, offset: Tensor) -> tuple[Callable[[Tensor, Tensor], Tensor], Tensor]:
        """The shrinking map of the norm, and a multiplier (B,) at which even without the box the ball is met."""
        if self.norm == 2:
            return _scale_down, (offset.norm(dim=1) / self.eps - 1).clamp(min=0)
        return _soft_threshold, offset.abs().amax(1)

    def random_start(self, image: Tensor, noise: Noise, step: int = 0) -> Tensor:
        """A point drawn uniformly from the eps-ball around each image, then clamped to [0,1], which keeps it inside.

        Ball of L2: the first D of D + 2 coordinates of a uniform point on a sphere. Ball of L1: D + 1 exponential
        variables over their sum, without the last, with random signs.
        """
        shape, dimension = image.shape[1:], image[0].numel()
        if self.norm == math.inf:
            inside = 2 * noise.uniform(step, shape, image.dtype) - 1
            return self.project(image, image + self.eps * inside)
        if self.norm == 2:
            z = noise.normal(step, (dimension + 2,))
        else:
            u = 2 * noise.uniform(step, (dimension + 1,)) - 1
            z = -u.sign() * torch.log1p(-u.abs())
        inside = (z / _length(z, self.norm)[:, None])[:, :dimension]
        return (image + self.eps * inside.to(image.dtype).view_as(image)).clamp(0, 1)

    def ascend(self, adv: Tensor, gradient: Tensor, step_size: float | Tensor) -> Tensor:
        """A step that makes the loss grow, ``step_size`` long in this norm (L1: see below); not yet projected.

        L-inf: the sign of the gradient. L2: the gradient over its length. These are the steepest directions. For L1
        the steepest is a single coordinate, which is slow; here all follow the gradient, the largest moving by
        ``step_size``, and the exact projection that comes next keeps the few that pay. In L2, what would push a pixel
        out of [0,1] is left out first, else the box would take back most of the step. Images whose gradient is zero
        stay where they are.
        """
        if self.norm == 2:
            held = ((adv <= 0) & (gradient < 0)) | ((adv >= 1) & (gradient > 0))
            gradient = torch.where(held, 0.0, gradient)
        return adv + step_size * self.direction(gradient)

    def direction(self, gradient: Tensor) -> Tensor:
        """The way of a step of ``ascend`` where no box is near."""
        if self.norm == 2:
            return unit(gradient)
        g = gradient.flatten(1)
        return (g.sign() if self.norm == math.inf else _over_largest(g)).view_as(gradient)


def require_threat(threat: Threat, kind: type[T], attack: str) -> T:
    """The threat, if it is of the kind; ``ValueError`` in the name of an attack that knows no other."""
    if not isinstance(threat, kind):
        raise ValueError(f"{attack} attacks within {kind.written}; the threat is {threat}.")
    return threat


def require_norm_ball(threat: Threat, attack: str) -> ThreatModel:
    """The threat, if it is a ball of a norm; ``ValueError`` in the name of an attack that knows no other."""
    return require_threat(threat, ThreatModel, attack)


def unit(gradient: Tensor) -> Tensor:
    """Over its Euclidean length, image by image, however large or small that is; zero stays zero."""
    rows = _over_largest(gradient.flatten(1))
    return (rows / _length(rows, 2)[:, None].clamp(min=1)).view_as(gradient)


def _norm(norm: float | str) -> float:
    text = str(norm).lower().removeprefix("l")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if value not in _NAMES:
        raise ValueError(f"norm must be 1, 2 or inf; got {norm!r}")
    return value


def _length(rows: Tensor, norm: float) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(rows, norm, dim=1)
    return length


def _over_largest(rows: Tensor) -> Tensor:
    """Rows over their largest absolute entry; zero rows stay zero."""
    return rows / rows.abs().amax(1, keepdim=True).clamp(min=torch.finfo(rows.dtype).tiny)


def _scale_down(offset: Tensor, multiplier: Tensor) -> Tensor:
    return offset / (1 + multiplier)


def _soft_threshold(offset: Tensor, multiplier: Tensor) -> Tensor:
    return offset.sign() * (offset.abs() - multiplier).clamp(min=0)
