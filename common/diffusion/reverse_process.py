"""Reverse processes: a sampler (schedule, solver, times) and, for one purification, its state, noise and denoiser."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from common.checks.settings import check_function, check_optional, check_part
from common.diffusion.bound_denoiser import BoundDenoiser
from common.diffusion.schedules import Schedule, check_schedule
from common.diffusion.solvers import Solver
from common.diffusion.steps import Draws, Step
from common.diffusion.time_grids import Grid, check_grid
from common.noise import Noise


@dataclass(frozen=True)
class Sampler:
    """A reverse process without an image: the steps of a ``solver`` along a ``grid`` of times of a ``schedule``."""

    schedule: Schedule
    solver: Solver
    grid: Grid

    def __post_init__(self) -> None:
        check_schedule("schedule", self.schedule)
        check_part("solver", self.solver, Solver)
        check_grid("grid", self.grid)

    @property
    def t_star(self) -> Tensor:
        """Start time of the process, () or (B,) float64."""
        return self.grid.nodes[0]

    def draws(self, noise: Noise, like: Tensor) -> Draws | None:
        """Noise of all steps for images ``like``, step k from step k of ``noise``; None for a deterministic solver."""
        rows = noise if self.solver.draws == 1 else noise.draws(self.solver.draws)
        return Draws(rows, self.grid.steps, like) if self.solver.stochastic else None

    def steps(self, noise: Noise, like: Tensor) -> tuple[Step, ...]:
        """The S steps for images ``like`` (B,C,H,W)."""
        return Step.between(self.schedule, self.grid.nodes, like, self.draws(noise, like))

    def sigmas(self) -> Tensor:
        """Noise levels at which the steps begin, (S,) or (S,B) float64: the denoiser must be valid there."""
        return self.schedule.sigma(self.grid.nodes[:-1])


@dataclass(frozen=True)
class Process:
    """The reverse process of one purification: from x_{t*}, in the state ``start``, by ``steps`` to x_{t_end}.

    ``x0`` is the purifier's input (B,C,H,W) in the model frame and ``noise`` its rows. A gradient reaches ``x0``
    through ``start`` and ``denoise.tensors``. States are images, with a memory in those of some solvers.
    ``watch(step, x)`` is called with the image after each step of a run, not when a step is recomputed.
    """

    x0: Tensor
    start: Tensor
    noise: Noise
    sampler: Sampler
    denoise: BoundDenoiser
    watch: Callable[[Step, Tensor], None] | None = None

    def __post_init__(self) -> None:
        for name, kind in (("x0", Tensor), ("start", Tensor), ("noise", Noise), ("sampler", Sampler)):
            check_part(name, getattr(self, name), kind)
        check_function("denoise", self.denoise, "a BoundDenoiser")
        check_optional(check_function, "watch", self.watch)

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """All steps, with their levels and their noise."""
        return self.sampler.steps(self.noise, self.image(self.start))

    def image(self, state: Tensor) -> Tensor:
        """The image (B,C,H,W) in a state."""
        return self.sampler.solver.image(state)

    @property
    def recording(self) -> bool:
        """True if a gradient of the result is recorded: grad mode is on and one of its tensors requires one."""
        tensors = (self.x0, self.start, *self.denoise.tensors)
        return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)

    def step(self, step: Step, x: Tensor, tensors: Sequence[Tensor] | None = None) -> Tensor:
        """The state after ``step`` from the state x: a pure function of step, x and ``tensors``.

        ``tensors`` stand in for those of the denoiser. A step sees them through views of its own, so that their
        gradients are summed per step first, as when a step is recomputed, and both sums agree in the last bit.
        """
        tensors = self.denoise.tensors if tensors is None else tensors
        return self.sampler.solver(step, x, self.denoise.over([tensor.view_as(tensor) for tensor in tensors]))
