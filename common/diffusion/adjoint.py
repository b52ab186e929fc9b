"""The stochastic adjoint as a mode of differentiation."""

from dataclasses import replace

from torch import Tensor

from common.checks.settings import check_not_negative, check_one_of, check_optional, check_positive
from common.diffusion.differentiation import Differentiation
from common.diffusion.reverse_process import Process, Sampler
from common.diffusion.solvers import EulerMaruyama, TorchSDE
from common.diffusion.time_grids import TimeGrid


class Adjoint(Differentiation):
    """The stochastic adjoint of the reverse SDE by ``torchsde.sdeint_adjoint``, as in DiffPure's paper (2205.07460).

    WARNING: these gradients are approximate. The backward pass solves another SDE, from the stiff end t_end where the
    forward pass never calls the network, on states that are simulated again instead of stored. For a trained network
    of 8x8 digits its cosine with the exact gradient of the same process is 0.85 to 0.96 at the paper's dt = 1e-3 and
    0.97 to 1 with t_end = 0.02, but 0.02 to 0.13 on a grid of five steps, whose first backward step of 0.02 starts at
    t = 1e-5: a coarse grid makes a weak attack, which inflates robustness, and says nothing about the paper's. With
    the states stored, ``Checkpoint`` costs no more. It is offered to reproduce published figures, its error beside them
    (``common.diffusion.gradient_check``).

    Networks' parameters are excluded. The path runs through our own noise, so on the deployed grid the forward pass
    is that of ``EulerMaruyama``. ``dt`` or ``t_end`` other than the deployed grid's put the *attacked* process on a
    grid of its own, forward pass included. ``adjoint_method`` is torchsde's: None means its default, Milstein, as in
    the paper.
    """

    approximate = True

    def __init__(self, dt: float | None = None, t_end: float | None = None, adjoint_method: str | None = None) -> None:
        self.dt = check_optional(check_positive, "dt", dt)
        self.t_end = check_optional(check_not_negative, "t_end", t_end)
        self.adjoint_method = check_optional(
            check_one_of, "adjoint_method", adjoint_method, ("euler", "milstein", "srk")
        )

    def attacked(self, sampler: Sampler) -> Sampler:
        if self.dt is None and self.t_end is None:
            return sampler
        times = _times(sampler)
        dt = times[0] - times[1] if self.dt is None else self.dt
        t_end = times[-1] if self.t_end is None else self.t_end
        return replace(sampler, grid=TimeGrid.uniform(times[0], t_end, dt=dt, t_max=sampler.schedule.t_max))

    def check(self, sampler: Sampler) -> None:
        solver = sampler.solver
        if not (isinstance(solver, EulerMaruyama) or (isinstance(solver, TorchSDE) and solver.method == "euler")):
            raise ValueError(
                f"the adjoint is that of the reverse SDE by Euler-Maruyama; got the solver {type(solver).__name__}. "
                'Use solver="euler_maruyama", or the exact gradient="checkpoint"'
            )
        times = _times(self.attacked(sampler))
        if max(abs(times[0] - k * (times[0] - times[1]) - t) for k, t in enumerate(times[:-1])) > 1e-9:
            raise ValueError("the adjoint needs a grid of equal steps (the last may be shorter); use TimeGrid.uniform")

    def run(self, process: Process) -> Tensor:
        from common.diffusion.torchsde_adapter import integrate_adjoint  # torchsde is slow to import and rarely needed

        sampler = self.attacked(process.sampler)
        draws = sampler.draws(process.noise, process.start)
        if draws is None:
            raise ValueError(f"the adjoint needs a stochastic solver; got {type(sampler.solver).__name__}")
        options = {"adjoint_method": self.adjoint_method}
        return integrate_adjoint(sampler.schedule, process.denoise, process.start, _times(sampler), draws, **options)


def _times(sampler: Sampler) -> tuple[float, ...]:
    if not isinstance(sampler.grid, TimeGrid):
        raise ValueError(
            'the adjoint needs one grid for all rows, not one with a t_star for each. Use gradient="checkpoint"'
        )
    return sampler.grid.times
