"""The reverse SDE in torchsde's terms: time runs upwards (tau = -t), states are flat, noise comes from our draws."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
import torchsde
from torch import Tensor

from common.diffusion.bound_denoiser import BoundDenoiser, Denoise
from common.diffusion.reverse_sde import reverse_drift
from common.diffusion.schedules import Schedule, per_row
from common.diffusion.steps import Increments, Levels, Step


class ReverseSDE:
    """``dx = -drift dtau + diffusion dw``, t = -tau, on states (B, C*H*W): torchsde's f and g.

    ``image`` is a state (B,C,H,W) with the shape, dtype and device of all states. ``start``, if given, is the flat
    initial state with its f, so that torchsde's check of the equation there costs no denoiser call.
    """

    noise_type = "diagonal"

    def __init__(self, schedule: Schedule, denoise: Denoise, image: Tensor, sde_type: str = "ito") -> None:
        self.schedule, self.denoise, self.sde_type = schedule, denoise, sde_type
        self.image = image.detach()
        self.start: tuple[Tensor, Tensor] | None = None

    def f(self, tau: Tensor, y: Tensor) -> Tensor:
        if self.start is not None and y is self.start[0]:
            return self.start[1]
        x = y.reshape(-1, *self.image.shape[1:])
        levels = Levels.at(self.schedule, -tau, x)
        x0_hat = self.denoise(x / per_row(levels.scale, x), levels.level)
        return -reverse_drift(levels, x, x0_hat).flatten(1)

    def g(self, tau: Tensor, y: Tensor) -> Tensor:
        return self.schedule.diffusion(-tau).to(y).expand_as(y)


class BrownianPath:
    """A path through our own draws: W gains sqrt(h_k) z_k over step k of the grid and is linear in between.

    torchsde reads increments between any two times; between the grid's nodes they are exactly those of
    ``EulerMaruyama``. Each row has its own noise, whereas torchsde's paths are seeded per batch.
    """

    levy_area_approximation = "none"

    def __init__(self, times: Sequence[float], z: Increments, like: Tensor) -> None:
        self.nodes = [-t for t in times]
        self.z = z
        self.shape, self.dtype, self.device = like.shape, like.dtype, like.device

    def __call__(self, ta: Tensor, tb: Tensor, return_U: bool = False, return_A: bool = False) -> Tensor:
        start, stop = float(ta), float(tb)
        total = torch.zeros(self.shape, dtype=self.dtype, device=self.device)
        first = max(1, bisect_right(self.nodes, start))
        for k, (a, b) in enumerate(list(pairwise(self.nodes))[first - 1 :], start=first):
            share = (min(stop, b) - max(start, a)) / (b - a)
            if a >= stop:
                break
            if share > 1e-9:  # less is round-off at a node
                total = total + share * (b - a) ** 0.5 * self.z[k].reshape(self.shape)
        return total


def step_arguments(step: Step, x: Tensor, x0_hat: Tensor, denoise: Denoise, method: str) -> dict[str, Any]:
    """Arguments of ``torchsde.sdeint`` for one step from the state x (B,C,H,W) at ``step.t`` to ``step.t_next``.

    ``x0_hat``: the denoised image at the start of the step.
    """
    y = x.flatten(1)
    sde_type = "ito" if method == "euler" else "stratonovich"  # the same equation: its noise is additive
    sde = ReverseSDE(step.schedule, denoise, x, sde_type)
    sde.start = (y, -reverse_drift(step, x, x0_hat).flatten(1))
    times, z = (float(step.t), float(step.t_next)), step.z
    path = BrownianPath(times, {1: torch.zeros_like(x) if z is None else z}, y)
    dt = (times[0] - times[1]) * (1 + 1e-9)
    ends = torch.stack((-step.t, -step.t_next))
    return {"sde": sde, "y0": y, "ts": ends, "bm": path, "method": method, "dt": dt}


def integrate_adjoint(
    schedule: Schedule, denoise: BoundDenoiser, x: Tensor, times: Sequence[float], z: Increments, **options: Any
) -> Tensor:
    """``torchsde.sdeint_adjoint`` by Euler's method over all ``times``; gradients reach x and ``denoise.tensors``."""
    if not len(x):  # torchsde cannot differentiate an empty state
        return x.clone()
    y = x.flatten(1)
    sde = ReverseSDE(schedule, denoise, x)
    ends = torch.tensor([-times[0], -times[-1]], dtype=torch.float64)
    dt = (times[0] - times[1]) * (1 + 1e-12)  # round-off must not leave a sliver of a step at the end
    integrate: Callable[..., Tensor] = torchsde.sdeint_adjoint
    path = BrownianPath(times, z, y)
    states = integrate(sde, y, ends, bm=path, method="euler", dt=dt, adjoint_params=denoise.tensors, **options)
    return states[-1].view_as(x)
