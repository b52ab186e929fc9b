"""Steps of a reverse process: times, noise levels, SDE coefficients and noise, computed once per purification.

Coefficients are float64 tensors: () on the CPU where all rows share the times, else (B,). A formula combines them
exactly and casts each result once, by ``per_row``, whatever the dtype and the device of the state.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Protocol

from torch import Tensor

from common.checks.settings import check_count, check_flag, check_part, refusal
from common.diffusion.schedules import Schedule, check_schedule
from common.noise import Noise

_DRAWN_AT_ONCE = 2**28  # bytes: below this one draw for all steps saves launches, above it memory is worth more


class Increments(Protocol):
    """Standard normals by step: ``increments[k]`` is (B,C,H,W), the same bits however often it is read."""

    def __getitem__(self, k: int) -> Tensor: ...


class Draws:
    """Standard normals of steps 1..S from a ``Noise``, in the dtype and on the device of ``like`` (B,C,H,W).

    They are drawn at once and kept if all S fit into 256 MiB, else drawn whenever they are read.
    """

    def __init__(self, noise: Noise, steps: int, like: Tensor) -> None:
        self.noise, self.like = noise, like.detach()
        fits = 4 * steps * like.numel() <= _DRAWN_AT_ONCE
        self.kept = noise.normals(range(1, steps + 1), like.shape[1:]).to(like) if fits else None

    def __getitem__(self, k: int) -> Tensor:
        return self.noise.normal(k, self.like.shape[1:]).to(self.like) if self.kept is None else self.kept[k - 1]


@dataclass(frozen=True)
class Levels:
    """A diffusion process at time t: ``x_t = scale (x0 + sigma n)`` and ``dx = drift x dt + diffusion dw``.

    All are float64, () or (B,), but ``level`` (B,): sigma as a denoiser reads it, in the dtype and on the device of
    the state.
    """

    t: Tensor
    scale: Tensor
    sigma: Tensor
    drift: Tensor
    diffusion: Tensor
    level: Tensor

    def __post_init__(self) -> None:
        held = (self.t, self.scale, self.sigma, self.drift, self.diffusion, self.level)
        if not all(isinstance(value, Tensor) for value in held):  # made in every purification: names cost time
            for field in fields(Levels):
                check_part(field.name, getattr(self, field.name), Tensor)

    @classmethod
    def along(cls, schedule: Schedule, times: Tensor, like: Tensor) -> list["Levels"]:
        """The levels at each of ``times`` (N,) or (N,B) float64, for a state ``like`` (B,C,H,W).

        The schedule gets copies of the times, into which it may write.
        """
        functions = (schedule.scale, schedule.sigma, schedule.drift, schedule.diffusion)
        scale, sigma, drift, diffusion = (function(times.clone()) for function in functions)
        level = sigma.to(like, non_blocking=like.is_cuda)  # the host goes on once the few levels are copied
        level = level if level.ndim > 1 else level[:, None].expand(-1, len(like))
        columns: Iterable[tuple[Tensor, ...]] = zip(
            *(column.unbind() for column in (times, scale, sigma, drift, diffusion, level)), strict=True
        )
        return [cls(*row) for row in columns]

    @classmethod
    def at(cls, schedule: Schedule, t: Tensor, like: Tensor) -> "Levels":
        """The levels at one time t, () or (B,) float64, for a state ``like``."""
        return cls.along(schedule, t[None], like)[0]


@dataclass(frozen=True)
class Step(Levels):
    """Step k in 1..S of a reverse process: from time t, whose levels are its own, to ``t_next`` < t.

    ``next`` are the levels at its end, ``schedule`` serves solvers that evaluate the process in between. ``last`` marks
    the final step. ``z`` (B,C,H,W) is its standard normal noise, None for a deterministic solver.
    """

    k: int
    next: Levels
    schedule: Schedule
    draws: Increments | None = None
    last: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("k", self.k)
        check_part("next", self.next, Levels)
        check_schedule("schedule", self.schedule)
        if self.draws is not None and (isinstance(self.draws, str | list) or not hasattr(self.draws, "__getitem__")):
            raise ValueError(refusal("draws", "normals by step", self.draws))
        check_flag("last", self.last)

    @classmethod
    def between(
        cls, schedule: Schedule, times: Tensor, like: Tensor, draws: Increments | None = None
    ) -> tuple["Step", ...]:
        """The S steps between ``times`` (S+1,) or (S+1,B) float64, descending, for a state ``like`` (B,C,H,W)."""
        levels = Levels.along(schedule, times, like)
        ends = list(pairwise(levels))
        return tuple(
            cls(**vars(start), k=k, next=end, schedule=schedule, draws=draws, last=k == len(ends))
            for k, (start, end) in enumerate(ends, start=1)
        )

    @property
    def t_next(self) -> Tensor:
        return self.next.t

    @property
    def scale_next(self) -> Tensor:
        return self.next.scale

    @property
    def sigma_next(self) -> Tensor:
        return self.next.sigma

    @property
    def duration(self) -> Tensor:
        """h = t - t_next."""
        return self.t - self.next.t

    @property
    def z(self) -> Tensor | None:
        return None if self.draws is None else self.draws[self.k]
