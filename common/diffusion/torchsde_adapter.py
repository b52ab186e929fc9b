"""The reverse SDE in torchsde's terms: time runs upwards (tau = -t), states are flat, noise comes from our draws."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Protocol

import torch
import torchsde
from torch import Tensor

Drift = Callable[[Tensor, Tensor], Tensor]


class Increments(Protocol):
    """Standard normals of steps 1..S."""

    def __getitem__(self, k: int) -> Tensor: ...


class ReverseSDE:
    """``dx = -drift(x, t) dtau + diffusion(t) dw``, t = -tau, on states (B, C*H*W): what torchsde calls f and g.

    ``start``, if given, is a state with its f: torchsde evaluates the equation once more than it needs, at the start,
    to check it, and this spares that call.
    """

    noise_type = "diagonal"

    def __init__(
        self,
        drift: Drift,
        diffusion: Callable[[Tensor], Tensor],
        event: torch.Size,
        sde_type: str = "ito",
        start: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        self.drift = drift
        self.diffusion = diffusion
        self.event = event
        self.sde_type = sde_type
        self.start = start

    def f(self, tau: Tensor, y: Tensor) -> Tensor:
        if self.start is not None and y is self.start[0]:
            return self.start[1]
        return -self.drift(y.reshape(-1, *self.event), -tau).flatten(1)

    def g(self, tau: Tensor, y: Tensor) -> Tensor:
        return self.diffusion(-tau).to(y).expand_as(y)


class BrownianPath:
    """A path through our own draws: W gains sqrt(h_k) z_k over step k of the grid and is linear in between.

    torchsde asks for increments between any two times; on the grid's nodes the answers are exactly those of
    ``EulerMaruyama``. Noise per row comes along: torchsde's own paths are seeded per batch.
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


def integrate_step(
    drift: Drift,
    diffusion: Callable[[Tensor], Tensor],
    xt: Tensor,
    t: Tensor,
    t_next: Tensor,
    z: Tensor | None,
    method: str,
) -> Tensor:
    """One step of ``torchsde.sdeint`` from t to t_next, shape of xt."""
    y = xt.flatten(1)
    start = (y, -drift(xt, t).flatten(1))
    sde_type = "ito" if method == "euler" else "stratonovich"  # the same equation: its noise is additive
    sde = ReverseSDE(drift, diffusion, xt.shape[1:], sde_type, start)
    h = float(t - t_next)
    path = BrownianPath((float(t), float(t_next)), {1: torch.zeros_like(xt) if z is None else z}, y)
    states: Tensor = torchsde.sdeint(sde, y, torch.stack((-t, -t_next)), bm=path, method=method, dt=h * (1 + 1e-9))
    return states[-1].view_as(xt)


def integrate_adjoint(
    drift: Drift,
    diffusion: Callable[[Tensor], Tensor],
    xt: Tensor,
    times: Sequence[float],
    z: Increments,
    parameters: tuple[Tensor, ...],
    **options: Any,
) -> Tensor:
    """``torchsde.sdeint_adjoint`` by Euler's method over the whole grid; gradients reach xt and ``parameters``."""
    y = xt.flatten(1)
    sde = ReverseSDE(drift, diffusion, xt.shape[1:])
    ends = torch.tensor([-times[0], -times[-1]], dtype=torch.float64)
    dt = (times[0] - times[1]) * (1 + 1e-12)  # round-off must not leave a sliver of a step at the end
    path = BrownianPath(times, z, y)
    states: Tensor = torchsde.sdeint_adjoint(
        sde, y, ends, bm=path, method="euler", dt=dt, adjoint_params=parameters, **options
    )
    return states[-1].view_as(xt)
