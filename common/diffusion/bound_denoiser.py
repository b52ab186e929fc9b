"""The denoiser of one purification, with everything bound that its steps share."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from torch import Tensor, nn

B = TypeVar("B", bound="BoundDenoiser")


@dataclass(frozen=True)
class BoundDenoiser:
    """``denoise(x, sigma)`` = E[x0 | x = x0 + sigma n] of one purification; x (B,C,H,W) model frame, sigma (B,).

    ``tensors`` are what it keeps of the purifier's input: a gradient reaches the input through them and through x,
    and through no other tensor. Subclasses guide by them.
    """

    denoiser: nn.Module
    tensors: tuple[Tensor, ...] = ()

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        denoised: Tensor = self.denoiser(x, sigma)
        return denoised

    def over(self: B, tensors: Sequence[Tensor]) -> B:
        """The same denoiser with other ``tensors``: copies to recompute with, or another batch's."""
        return replace(self, tensors=tuple(tensors)) if tensors or self.tensors else self
