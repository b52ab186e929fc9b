"""Time grids: the one source of the times of a reverse process, for solver, conditioning and recomputation.

Times are float64 tensors: () and on the CPU where all rows share them, else (B,).
"""

import math
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor

from common.checks.settings import check_number, check_part, check_positive, check_sequence, check_size, refusal


class Grid(Protocol):
    """Descending times of S steps. ``nodes`` are all S + 1 of them, (S+1,) or (S+1,B) float64.

    ``coarsen(steps)`` is the grid of ``steps`` equal steps between the same ends.
    """

    @property
    def steps(self) -> int: ...

    @property
    def nodes(self) -> Tensor: ...

    def coarsen(self, steps: int) -> "Grid": ...


def check_grid(name: str, grid: object) -> Grid:
    """The grid. Raises ``ValueError`` for an object without its members."""
    if isinstance(grid, type) or any(not hasattr(grid, member) for member in ("steps", "coarsen")):
        raise ValueError(refusal(name, "a time grid, such as TimeGrid.uniform(t_star)", grid))
    return cast(Grid, grid)


@dataclass(frozen=True)
class TimeGrid:
    """The times of a reverse process, float64, strictly descending from t_star to t_end.

    S + 1 times make S steps; step k in 1..S goes from ``times[k - 1]`` to ``times[k]``.
    """

    times: tuple[float, ...]

    def __post_init__(self) -> None:
        check_sequence("times", self.times, check_number, 2)
        if not all(a > b >= 0 for a, b in zip(self.times, self.times[1:], strict=False)):
            raise ValueError(f"a TimeGrid needs two or more times, strictly descending and >= 0; got {self.times}")

    @classmethod
    def uniform(
        cls, t_star: float, t_end: float = 1e-5, steps: int | None = None, dt: float = 1e-3, t_max: float = 1.0
    ) -> "TimeGrid":
        """``steps`` equal steps from t_star to t_end or, without ``steps``, DiffPure's grid: nodes every ``dt``.

        The latter counts down from t_star and its last step, to t_end, is shorter: 100 steps for t_star = 0.1.
        """
        if check_number("t_star", t_star) > t_max or t_star <= 0:
            raise ValueError(
                f"t_star must be a time in (0, {t_max:g}]; got {t_star}. DiffPure's t* = 100 of 1000 is t_star = 0.1"
            )
        if not 0 <= check_number("t_end", t_end) < t_star:
            raise ValueError(f"t_end must be in [0, t_star); got t_end={t_end}, t_star={t_star}")
        if steps is not None:
            check_size("steps", steps, note="None takes steps of dt")
            return cls((*(t_star + (t_end - t_star) * (k / steps) for k in range(steps)), t_end))
        check_positive("dt", dt)
        count = max(1, math.ceil((t_star - t_end) / dt - 1e-9))
        return cls((*(t_star - k * dt for k in range(count)), t_end))

    @property
    def steps(self) -> int:
        """S, the number of steps."""
        return len(self.times) - 1

    @property
    def nodes(self) -> Tensor:
        """All times, (S+1,) float64."""
        return torch.tensor(self.times, dtype=torch.float64)

    def coarsen(self, steps: int) -> "TimeGrid":
        """``steps`` equal steps over the same times."""
        return TimeGrid.uniform(self.times[0], self.times[-1], steps, t_max=self.times[0])


@dataclass(frozen=True)
class RowGrid:
    """A grid for each row: ``grid``, stretched so that row b starts at ``t_star[b]``; all end at the same t_end.

    ``t_star`` (B,) float64. With tau_k the times of ``grid``, those of row b are
    ``t_end + (tau_k - t_end) (t_star[b] - t_end) / (tau_0 - t_end)``.
    """

    grid: TimeGrid
    t_star: Tensor

    def __post_init__(self) -> None:
        check_part("grid", self.grid, TimeGrid)
        check_part("t_star", self.t_star, Tensor, "a tensor (B,)")

    @property
    def steps(self) -> int:
        """S, the number of steps, the same for every row."""
        return self.grid.steps

    @property
    def nodes(self) -> Tensor:
        """All times of all rows, (S+1,B) float64, on the device of ``t_star``."""
        start, end = self.grid.times[0], self.grid.times[-1]
        share = torch.tensor([(t - end) / (start - end) for t in self.grid.times], dtype=torch.float64)
        return end + share[:, None].to(self.t_star.device) * (self.t_star - end)

    def coarsen(self, steps: int) -> "RowGrid":
        """Each row in ``steps`` equal steps from its t_star."""
        return RowGrid(self.grid.coarsen(steps), self.t_star)
