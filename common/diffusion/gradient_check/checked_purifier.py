"""Purifiers under a gradient check, and the scalar of a purification that the checks differentiate."""

from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from common.diffusion.bound_denoiser import BoundDenoiser
from common.diffusion.differentiation import Differentiation
from common.diffusion.reverse_process import Process, Sampler
from common.diffusion.time_grids import TimeGrid
from common.noise import Noise


class CheckedPurifier(Protocol):
    """The parts of a ``DiffusionPurifier`` that the checks use."""

    denoiser: nn.Module
    grid: TimeGrid
    gradient: Differentiation
    adds_noise: bool

    @property
    def guides(self) -> tuple[nn.Module, ...]: ...

    def __call__(self, image: Tensor, noise: Noise) -> Tensor: ...

    def process(self, image: Tensor, noise: Noise) -> Process: ...

    def sampler(self, noise: Noise) -> Sampler: ...

    def bind(self, x0: Tensor, noise: Noise) -> BoundDenoiser: ...

    def differentiated(self, mode: Differentiation) -> AbstractContextManager[Any]: ...


def projected(purified: Tensor, noise: Noise) -> Tensor:
    """``<c, purified>`` per row, (n,), for one random c of unit length."""
    c = noise.stream("projection").normal(0, purified.shape[1:])[:1].to(purified)
    projection: Tensor = (purified * c / c.norm()).flatten(1).sum(1)
    return projection


def differentiated(value: Tensor, leaf: Tensor) -> Tensor:
    """The gradient of ``value`` in ``leaf``; zero where none arrives."""
    try:
        gradient = torch.autograd.grad(value, leaf, allow_unused=True)[0] if value.requires_grad else None
    except RuntimeError as error:  # a step detached from all inputs has a recomputation without a graph
        if "does not require grad" not in str(error):
            raise
        gradient = None
    return torch.zeros_like(leaf) if gradient is None else gradient.detach()
