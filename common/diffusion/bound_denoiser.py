"""The denoiser of one purification, with everything bound that its steps share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, TypeVar

from torch import Tensor, nn

from common.checks.images import check_like
from common.checks.settings import check_function, refusal
from common.numerics.copies import copied

Denoise = Callable[[Tensor, Tensor], Tensor]
"""``denoise(x, sigma)`` = E[x0 | x = x0 + sigma n], x (B,C,H,W) in the model frame, sigma (B,)."""

B = TypeVar("B", bound="BoundDenoiser")


@dataclass(frozen=True)
class BoundDenoiser:
    """``denoise(x, sigma)`` = E[x0 | x = x0 + sigma n] of one purification; x (B,C,H,W) model frame, sigma (B,).

    The denoiser gets copies, since it may write into its input, and its output is checked.

    ``tensors``: all tensors inside that depend on the purifier's input, such as an embedded reference. A gradient
    reaches the input through them and through x, and through no other tensor. Subclasses use them for guidance.
    """

    takes_gradient: ClassVar[bool] = False  # True if the process takes a gradient inside its forward pass

    denoiser: nn.Module
    tensors: tuple[Tensor, ...] = ()

    def __post_init__(self) -> None:
        check_function("denoiser", self.denoiser, "a function of (x, sigma)")
        if not isinstance(self.tensors, tuple) or not all(isinstance(tensor, Tensor) for tensor in self.tensors):
            raise ValueError(refusal("tensors", "a tuple of tensors", self.tensors))

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        return check_like("the denoiser", self.denoiser(*copied(x, sigma)), x)

    def weights(self) -> list[Tensor]:
        """Parameters and buffers of the modules inside."""
        modules = [part for part in vars(self).values() if isinstance(part, nn.Module)]
        return [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]

    def over(self: B, tensors: Sequence[Tensor]) -> B:
        """The same denoiser with other ``tensors``: copies to recompute with, or another batch's."""
        return replace(self, tensors=tuple(tensors)) if tensors or self.tensors else self
