"""DiffPure with a random diffusion depth."""

import torch
from torch import nn

from common.checks.settings import check_number
from common.diffusion.differentiation import Differentiation
from common.diffusion.reverse_process import Sampler
from common.diffusion.schedules import Schedule
from common.diffusion.solvers import Solver, TorchSDE
from common.diffusion.time_grids import RowGrid
from common.noise import Noise
from diffpure.purifier import DiffPure


class RandomisedDiffPure(DiffPure):
    """DiffPure whose depth is drawn for each image and draw: uniform on [t_star - spread, t_star + spread].

    The image is diffused to the drawn time, and the reverse process starts there: its grid is that of ``t_star``,
    stretched, so every row takes the same number of steps. The code of DiffPure (arXiv 2205.07460) has this option
    with a spread of 15 steps of 1000.

    Raises ``ValueError`` unless t_end < t_star - spread and t_star + spread <= t_max, and for the adjoint and
    torchsde, which need the same times for all rows.
    """

    spread: float = 0.0

    def __init__(
        self,
        denoiser: nn.Module,
        t_star: float,
        spread: float = 0.015,
        steps: int | None = None,
        solver: str | Solver = "euler_maruyama",
        gradient: str | Differentiation = "checkpoint",
        schedule: Schedule | None = None,
        t_end: float = 1e-5,
    ) -> None:
        super().__init__(denoiser, t_star, steps, solver, gradient, schedule, t_end)
        if not 0 <= check_number("spread", spread) < t_star - t_end or t_star + spread > self.schedule.t_max:
            raise ValueError(
                f"the drawn depths, t_star -+ spread, must lie in ({t_end:g}, {self.schedule.t_max:g}]; "
                f"got t_star={t_star}, spread={spread}"
            )
        if isinstance(self.solver, TorchSDE):
            raise ValueError('torchsde takes one time for all rows. Use solver="euler_maruyama", the same steps')
        self.spread = spread
        self._check()

    def sampler(self, noise: Noise | None = None) -> Sampler:
        """DiffPure's sampler from depths drawn by ``noise``; None: from the smallest and the largest depth."""
        if noise is None:
            offset = torch.tensor([-1.0, 1.0], dtype=torch.float64)
        else:
            offset = 2 * noise.stream("t_star").uniform(0, (), torch.float64) - 1
        return Sampler(self.schedule, self.solver, RowGrid(self.grid, self.grid.times[0] + self.spread * offset))
