"""Base class of threat models: the images that an attacker may return."""

from abc import ABC, abstractmethod
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from common.noise import Noise

T = TypeVar("T", bound="Threat")


class Threat(ABC):
    """A set of allowed images around an image: a distance called ``name`` and its bound ``eps``.

    A subclass defines ``name``, ``distance`` and ``check``. ``constructor`` is the example that error messages show.
    """

    eps: float
    constructor: ClassVar[str] = "a threat of its own"

    @property
    @abstractmethod
    def name(self) -> str:
        """Name of the distance, as tables show it."""

    @abstractmethod
    def distance(self, image: Tensor, adv: Tensor) -> Tensor:
        """Distance of ``adv`` from ``image``, (B,) float64."""

    @abstractmethod
    def check(self, image: Tensor, adv: Tensor) -> Tensor:
        """True where adv is allowed, (B,) bool: finite, in [0,1], and within ``eps``."""

    def random_like(self, image: Tensor, adv: Tensor, noise: Noise) -> Tensor:
        """A random image about as far from ``image`` as ``adv``: the control for a perturbation of that size.

        ``image`` plus the perturbation ``adv - image`` with its entries permuted and their signs drawn at random, which
        leaves every norm as it is. A sign that would leave [0,1] is flipped; an entry that leaves it both ways is
        clamped.
        """
        size = image.shape[1:].numel()
        places = noise.uniform(0, (size,), torch.float64).argsort(1)
        sign = (noise.uniform(1, (size,)) < 0.5).to(image.dtype) * 2 - 1
        centre = image.flatten(1)
        offset = (adv - image).flatten(1).gather(1, places) * sign
        inside = (centre + offset >= 0) & (centre + offset <= 1)
        return (centre + torch.where(inside, offset, -offset)).clamp(0, 1).view_as(image)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name}, eps={self.eps:.4g})"


def require_threat(threat: Threat, kind: type[T], attack: str) -> T:
    """The threat as an instance of ``kind``; ``ValueError`` in the name of ``attack`` if it is another."""
    if not isinstance(threat, kind):
        raise ValueError(f"{attack} attacks within {kind.constructor}; the threat is {threat}.")
    return threat


def in_box(adv: Tensor) -> Tensor:
    """True where all pixels are finite and in [0,1], (B,) bool."""
    return ((adv >= 0) & (adv <= 1)).flatten(1).all(1)
