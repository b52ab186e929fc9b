"""Error of an approximate gradient against the exact one."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from common.diffusion.gradients import Checkpoint, Differentiation
from common.noise import Noise


class Differentiable(Protocol):
    """A purifier whose mode of differentiation can be replaced; ``gradient`` is its own."""

    gradient: Differentiation

    def __call__(self, image: Tensor, noise: Noise) -> Tensor: ...

    def differentiated(self, mode: Differentiation) -> AbstractContextManager[Any]: ...


@dataclass(frozen=True)
class GradientError:
    """Distance of an approximate gradient from the exact one, per image, (B,) each.

    ``relative`` = |approximate - exact| / |exact| (Euclidean), ``cosine`` between the two, and ``sign_agreement``, the
    share of pixels with the right sign; L-infinity attacks use the sign alone.
    """

    relative: Tensor
    cosine: Tensor
    sign_agreement: Tensor

    @classmethod
    def between(cls, approximate: Tensor, exact: Tensor) -> "GradientError":
        """Error of gradients (B,C,H,W) against the exact ones."""
        a, b = approximate.flatten(1).double(), exact.flatten(1).double()
        cosine = torch.nn.functional.cosine_similarity(a, b)
        return cls((a - b).norm(dim=1) / b.norm(dim=1), cosine, (a.sign() == b.sign()).double().mean(1))


def measure_gradient(
    purifier: Differentiable, image: Tensor, noise: Noise, objective: Callable[[Tensor], Tensor]
) -> GradientError:
    """Error of ``purifier.gradient`` against the exact gradient of the deployed process, per image.

    ``objective`` maps purified images (B,C,H,W) to values per image, (B,).
    """
    own, exact = (_gradient(purifier, mode, image, noise, objective) for mode in (purifier.gradient, Checkpoint()))
    return GradientError.between(own, exact)


def _gradient(
    purifier: Differentiable, mode: Differentiation, image: Tensor, noise: Noise, objective: Callable[[Tensor], Tensor]
) -> Tensor:
    with torch.enable_grad(), purifier.differentiated(mode):
        leaf = image.detach().requires_grad_()
        value = objective(purifier(leaf, noise)).sum()
        return torch.autograd.grad(value, leaf)[0]
