"""Gradual noise (Lee and Kim, arXiv 2303.09051): a sequence of purifications from increasing noise levels."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from torch import nn

from common.checks.settings import check_optional, check_part, check_positive, check_sequence, check_size
from common.diffusion.composed import Chain, Repeated
from common.diffusion.differentiation import Differentiation
from common.diffusion.modes import Surrogate, as_differentiation
from common.diffusion.schedules import DDPM, Schedule, check_schedule
from common.diffusion.solvers import Solver
from diffpure.purifier import DiffPure


@dataclass(frozen=True)
class Block:
    """``rounds`` purifications from depth ``t_star``.

    ``surrogate``: number of steps of the coarser sampler that an attack differentiates, weaker than the exact gradient;
    None for the exact gradient.
    """

    t_star: float
    rounds: int = 1
    surrogate: int | None = None

    def __post_init__(self) -> None:
        check_positive("t_star", self.t_star)
        check_size("rounds", self.rounds)
        check_optional(check_size, "surrogate", self.surrogate)

    def mode(self, exact: Differentiation) -> Differentiation:
        """Differentiation mode of the block: ``exact``, or its surrogate."""
        return exact if self.surrogate is None else Surrogate(self.surrogate, exact)


CIFAR10_BLOCKS = (Block(0.03, 4), Block(0.05, 2), Block(0.125, 2))


class GradualNoise(Chain):
    """A chain of ``blocks``, by default the paper's for CIFAR-10: t_star 0.03 four times, 0.05 and 0.125 twice each.

    Every round diffuses to the block's depth and runs the reverse process to t_end. The default is the paper's sampler:
    DDPM, one step for each index. The paper votes over ten runs (``common.robustness.Voting``) and attacks surrogates
    of 1, 1 and 5 steps (``Block.surrogate``). Blocks share the denoiser; the other arguments are those of ``DiffPure``,
    the same in every block.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        blocks: Sequence[Block] = CIFAR10_BLOCKS,
        solver: str | Solver = "ancestral",
        gradient: str | Differentiation = "checkpoint",
        schedule: Schedule | None = None,
        t_end: float = 0.0,
    ) -> None:
        check_sequence("blocks", blocks, partial(check_part, kind=Block))
        check_optional(check_schedule, "schedule", schedule)
        schedule, exact = schedule or DDPM(), as_differentiation(gradient)
        rounds = []
        for block in blocks:
            purifier = DiffPure(denoiser, block.t_star, None, solver, block.mode(exact), schedule, t_end)
            rounds.append(Repeated(purifier, block.rounds))
        super().__init__(rounds)
