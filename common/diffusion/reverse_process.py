"""The reverse process: a denoiser, a schedule, a solver and a grid; and the noise that drives its steps."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from common.diffusion.schedules import Schedule
from common.diffusion.solvers import Solver
from common.diffusion.time_grids import Grid
from common.noise import Noise

_DRAWN_AT_ONCE = 2**28  # bytes: below this one draw for all steps saves launches, above it memory is worth more


class Draws:
    """The standard normals of steps 1..S, one (B, ...) tensor a step, in the dtype and on the device of ``like``.

    ``draws[k]`` is a pure function of (noise, k): recomputing a step finds the same bits, whether they were kept or are
    drawn again.
    """

    def __init__(self, noise: Noise, steps: int, like: Tensor) -> None:
        self.noise = noise
        self.like = like.detach()
        fits = 4 * steps * like.numel() <= _DRAWN_AT_ONCE
        self.kept = noise.normals(range(1, steps + 1), like.shape[1:]) if fits else None

    def __getitem__(self, k: int) -> Tensor:
        z = self.noise.normal(k, self.like.shape[1:]) if self.kept is None else self.kept[k - 1]
        return z.to(self.like)


@dataclass(frozen=True)
class ReverseProcess:
    """A solver's steps along a grid, from x_{t_star} to x_{t_end}; everything but state and noise.

    ``denoise(x, sigma, *context)``; the context are tensors computed once per purification. Every tensor through
    which a gradient must flow is the state or part of the context: a tensor that ``denoise`` closes over gets none.
    ``watch(t_k, x_{t_k})`` is called after each step of a run, not when one is recomputed.
    """

    denoise: Callable[..., Tensor]
    schedule: Schedule
    solver: Solver
    grid: Grid
    watch: Callable[[Tensor, Tensor], None] | None = None

    def draws(self, noise: Noise, like: Tensor) -> Draws | None:
        """Noise for all steps, step k of the process being step k of ``noise``; None for a deterministic solver."""
        return Draws(noise, self.grid.steps, like) if self.solver.stochastic else None

    def step(self, k: int, xt: Tensor, draws: Draws | None, *context: Tensor) -> Tensor:
        """Step k in 1..S: over ``grid.interval(k)``."""
        t, t_next = self.grid.interval(k)
        z = None if draws is None else draws[k]

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            return self.denoise(x, sigma, *context)

        return self.solver.step(denoise, self.schedule, xt, t, t_next, z, last=k == self.grid.steps)

    def run(self, xt: Tensor, noise: Noise, context: tuple[Tensor, ...]) -> Tensor:
        """All steps, differentiated (or not) as any other torch code.

        Each step sees the context through a view of its own: so its gradients are summed per step first, as when a step
        is differentiated alone, and the two agree in the last bit.
        """
        draws = self.draws(noise, xt)
        return self.walk(lambda k, x: self.step(k, x, draws, *(tensor.view_as(tensor) for tensor in context)), xt)

    def walk(self, step: Callable[[int, Tensor], Tensor], xt: Tensor) -> Tensor:
        """``x_{t_k} = step(k, x_{t_{k-1}})`` for k = 1..S, the loop of every run; the last state."""
        for k in range(1, self.grid.steps + 1):
            xt = step(k, xt)
            if self.watch is not None:
                self.watch(self.grid.interval(k)[1], xt)
        return xt

    def sigmas(self) -> Tensor:
        """The noise levels at which steps begin, (S,) or (S,B) float64: those the denoiser must know."""
        return self.schedule.sigma(torch.stack([self.grid.interval(k)[0] for k in range(1, self.grid.steps + 1)]))
