"""Smoothing filters and a modifier, the parameters of the low-frequency attack."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


class FilterChain:
    """The parameters of B images (B,C,H,W), filters and modifier, and the filtered images."""

    def __init__(self, image: Tensor, kernels: Sequence[int], identity: float) -> None:
        self._image, self._kernels = image, kernels
        self.modifier = torch.zeros_like(image).requires_grad_()
        self.filters = [_initial_filter(image, size, identity).requires_grad_() for size in kernels]

    def __call__(self, rows: Tensor) -> Tensor:
        """The filtered images ``rows``, (A,C,H,W): means of pixels, so in [0,1] except for the last bit."""
        x = self._image[rows] + self.modifier[rows]
        for size, theta in zip(self._kernels, self.filters, strict=True):
            x = (_patches(x, size) * theta[rows].softmax(1)[:, None]).sum(2)
        return x

    def differentiate(self, filtered: Tensor, ascent: Tensor) -> None:
        """Set the gradients of the parameters, for the optimiser, to those of ``<filtered, ascent>``."""
        parameters = [*self.filters, self.modifier]
        gradients = torch.autograd.grad((filtered * ascent).sum(), parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient

    @torch.no_grad()
    def clamp_modifier(self) -> None:
        """Clamp image + modifier to [0,1]."""
        self.modifier.copy_((self._image + self.modifier).clamp(0, 1) - self._image)


def _initial_filter(image: Tensor, size: int, identity: float) -> Tensor:
    """Logits (B,k^2,H,W) under which the centre has the weight ``identity`` and all others are equal."""
    others = size**2 - 1
    theta = image.new_zeros(len(image), size**2, *image.shape[-2:])
    theta[:, others // 2] = torch.tensor(identity / (1 - identity) * others).log().item()
    return theta


def _patches(x: Tensor, size: int) -> Tensor:
    """(B,C,H,W) -> (B,C,k^2,H,W): the neighbourhood of each pixel; beyond the edge, the nearest pixel on it."""
    around = functional.pad(x, (size // 2,) * 4, mode="replicate")
    return functional.unfold(around, size).view(*x.shape[:2], size**2, *x.shape[-2:])
