"""Modes of differentiation by name, and the surrogate: another sampler, differentiated by one of them."""

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from common.checks.settings import check_count, check_optional, check_part
from common.diffusion.adjoint import Adjoint
from common.diffusion.differentiation import BPDA, Checkpoint, Differentiation, Full
from common.diffusion.reverse_process import Process, Sampler
from common.diffusion.solvers import MARGINAL, Solver, TorchSDE, as_solver
from common.naming.choices import make
from common.naming.differentiation_modes import Mode


class Surrogate(Differentiation):
    """The exact gradient of a coarser sampler (Lee and Kim, arXiv 2303.09051): weaker than that of the deployed one.

    While a gradient is recorded the process runs in ``steps`` equal steps over the same times, by ``solver`` if one is
    given, forward pass included. ``steps=None`` keeps the grid, and needs a solver. Without a gradient the process runs
    as deployed. ``gradient`` is the mode that differentiates the surrogate.
    """

    approximate = True

    def __init__(
        self,
        steps: int | None = 20,
        gradient: str | Differentiation = "checkpoint",
        solver: str | Solver | None = None,
    ) -> None:
        check_optional(check_count, "steps", steps)
        if steps is None and solver is None:
            raise ValueError("a surrogate needs steps >= 1, or None and another solver; got steps=None")
        self.steps = steps
        self.gradient = as_differentiation(gradient)
        self.solver = None if solver is None else as_solver(solver)
        if isinstance(self.solver, TorchSDE):
            raise ValueError('a surrogate must not use torchsde as its solver. Use solver="euler_maruyama"')

    @property
    def stepwise(self) -> bool:
        return self.gradient.stepwise

    def attacked(self, sampler: Sampler) -> Sampler:
        return self.gradient.attacked(self._surrogate(sampler))

    def _surrogate(self, sampler: Sampler) -> Sampler:
        grid = sampler.grid if self.steps is None else sampler.grid.coarsen(self.steps)
        return replace(sampler, grid=grid, solver=self.solver or sampler.solver)

    def check(self, sampler: Sampler) -> None:
        steps, deployed = self.steps or 1, sampler.grid.steps
        if steps > deployed or (steps == deployed and self.solver is None):
            raise ValueError(
                f"a surrogate must have fewer steps than the deployed process, {deployed}, or as many of another "
                f'solver; got {steps}. Lower Surrogate(steps), or use the exact gradient="checkpoint"'
            )
        if self.solver is not None and not isinstance(sampler.solver, MARGINAL):
            name = type(sampler.solver).__name__
            raise ValueError(
                f"no other solver stands in for {name}: its states have other marginals. Use Surrogate(steps)"
            )
        self.gradient.check(self._surrogate(sampler))

    def run(self, process: Process) -> Tensor:
        mode: Differentiation = self
        sampler = process.sampler
        while isinstance(mode, Surrogate):  # of a surrogate, as deep as they are nested: no frame for each
            sampler, mode = mode._surrogate(sampler), mode.gradient
        return mode.run(replace(process, sampler=sampler))


class ExactOf(Differentiation):
    """The exact gradient of the process that ``mode`` runs while a gradient is recorded, to compare the mode with."""

    def __init__(self, mode: str | Differentiation) -> None:
        self.mode = as_differentiation(mode)

    def attacked(self, sampler: Sampler) -> Sampler:
        return self.mode.attacked(sampler)

    def check(self, sampler: Sampler) -> None:
        self.mode.check(sampler)

    def run(self, process: Process) -> Tensor:
        return Checkpoint().run(replace(process, sampler=self.attacked(process.sampler)))


MODES: dict[Mode, Callable[[], Differentiation]] = {
    "full": Full,
    "checkpoint": Checkpoint,
    "adjoint": Adjoint,
    "bpda": BPDA,
    "surrogate": Surrogate,
}
"""The modes by the names that configurations and attacks use."""


def as_differentiation(mode: str | Differentiation) -> Differentiation:
    """A mode by name, or the mode itself. Raises ``ValueError`` for an unknown name."""
    made = make("gradient", MODES, mode, ", or a Differentiation")
    return check_part("gradient", made, Differentiation)
