"""Trajectories: the diffused and the reverse states of a purification."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from common.diffusion.steps import Step
from common.noise import Noise


@dataclass
class Trajectory:
    """The states of a purification whose gradient is recorded; a gradient flows from each of them to the image.

    ``states[k - 1]`` is (t_k, x'_{t_k}), the reverse process after its step k, and ``diffused(t)`` is x_t, the image
    diffused to t with the noise z_0 that the purification began with. Both (B,C,H,W), model frame. ``noise`` are the
    rows that drove it.
    """

    noise: Noise
    diffused: Callable[[Tensor], Tensor]
    states: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def record(self, step: Step, x: Tensor) -> None:
        """Append the state x after ``step``."""
        self.states.append((step.t_next, x))

    def deviation(self, times: int | None = None) -> Tensor:
        """``mean_k ||x_{t_k} - x'_{t_k}||^2 / D`` over ``times`` different k of 1..S (None: all), (B,), D = C*H*W.

        The k are drawn uniformly from the noise's seed, the same for all rows and independent of the batch.
        """
        chosen = self.states
        if times is not None and times < len(chosen):
            shared = Noise.of(self.noise.seed, torch.zeros(1, dtype=torch.int64)).stream("times")
            order = shared.uniform(0, (len(chosen),), torch.float64)[0].argsort()
            chosen = [chosen[k] for k in order[:times].tolist()]
        gaps = [(self.diffused(t) - x).flatten(1).square().mean(1) for t, x in chosen]
        return torch.stack(gaps).mean(0)
