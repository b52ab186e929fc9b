"""Purifiers: diffuse to t*, run the reverse process."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from common.checks.images import check_near_pixels, check_rows, check_weights_dtype
from common.checks.settings import check_part
from common.diffusion.bound_denoiser import BoundDenoiser
from common.diffusion.denoisers import noise_range
from common.diffusion.differentiation import Differentiation, Full
from common.diffusion.gradient_check.purifier_checks import gradient_findings
from common.diffusion.modes import ExactOf, as_differentiation
from common.diffusion.reverse_process import Process, Sampler
from common.diffusion.schedules import Schedule, check_schedule, per_row
from common.diffusion.solvers import Solver, as_solver
from common.diffusion.time_grids import TimeGrid
from common.diffusion.trajectories import Trajectory
from common.engine.switch import ALTERED
from common.noise import Noise
from common.numerics.finding import Finding
from common.units import to_model, to_pixel


class Purifier(nn.Module):
    """``forward(image, noise=None)``: pixels (B,C,H,W) in [0,1] to pixels, never clamped.

    ``diffuse(image, noise)`` is the image at its noisiest, for figures: the image itself where nothing adds noise.
    Without ``noise`` both draw afresh.
    """

    def forward(self, image: Tensor, noise: Noise | None = None) -> Tensor:
        raise NotImplementedError

    def diffuse(self, image: Tensor, noise: Noise | None = None) -> Tensor:
        return image


class DiffusionPurifier(Purifier):
    """Purification by a diffusion model: with x0 = 2 image - 1,

        x_{t*} = s(t*) (x0 + sigma(t*) z_0),    x_{t_{k}} = solver step k of x_{t_{k-1}},    k = 1..S,

    and the result is (x_{t_end} + 1)/2. Step 0 of the noise diffuses, step k drives solver step k.

    * ``denoiser``: called ``denoiser(x, sigma)``. It is frozen here (eval mode, no parameter gradients).
    * ``schedule``: with its times; ``t_star`` in (0, t_max].
    * ``steps``: number of equal steps, or None for DiffPure's grid with a node every 1e-3.
    * ``solver``: a name in ``common.diffusion.solvers.SOLVERS``, or a ``Solver``.
    * ``gradient``: the mode of differentiation, a name in ``common.diffusion.modes.MODES`` or a ``Differentiation``;
      ``common.diffusion.differentiation`` compares them.

    A gradient is recorded when grad mode is on and the image requires one; otherwise no graph is formed. Subclasses
    guide the process by ``bind`` and declare the modules that do so in ``guides``. Attacks use ``differentiated`` and
    ``recorded``, gradient checks ``gradient_findings`` (``common.robustness.protocols``).

    Raises ``ValueError`` for times out of range, unknown names, noise levels outside of the denoiser's range.
    """

    not_identifying: ClassVar[frozenset[str]] = frozenset({"_trajectories"})
    adds_noise = True  # False where the image has its noise already: z_0 is then 0

    def __init__(
        self,
        denoiser: nn.Module,
        schedule: Schedule,
        t_star: float,
        steps: int | None = None,
        solver: str | Solver = "euler_maruyama",
        gradient: str | Differentiation = "checkpoint",
        t_end: float = 1e-5,
    ) -> None:
        super().__init__()
        check_part("denoiser", denoiser, nn.Module, "a module", note="Load a file by load_denoiser(path)")
        check_schedule("schedule", schedule)
        self.denoiser = denoiser.requires_grad_(False).eval()
        self.schedule = schedule
        self.grid = TimeGrid.uniform(t_star, t_end, steps, t_max=schedule.t_max)
        self.solver = as_solver(solver)
        self.gradient = as_differentiation(gradient)
        self._trajectories: list[Trajectory] | None = None
        self._check()

    def _check(self) -> None:
        sampler = self.sampler()
        self.gradient.check(sampler)
        low, high = noise_range(self.denoiser)
        least, most = (float(end) for end in sampler.sigmas().aminmax())
        if least < low * (1 - 1e-6) or most > high * (1 + 1e-6):
            raise ValueError(
                f"the process needs denoised images at noise levels {least:.4g} .. {most:.4g} (model frame), but the "
                f"denoiser is meant for {low:.4g} .. {high:.4g}. Change t_star, t_end or steps"
            )

    def train(self, mode: bool = True) -> "DiffusionPurifier":
        """Set the mode of the purifier; the denoiser stays in eval mode: with dropout it would be another defence."""
        super().train(mode)
        self.denoiser.eval()
        return self

    def forward(self, image: Tensor, noise: Noise | None = None) -> Tensor:
        process = self.process(image, noise)
        mode = self.gradient if process.recording else Full()
        with torch.set_grad_enabled(process.recording):
            return to_pixel(mode.run(process))

    def process(self, image: Tensor, noise: Noise | None = None) -> Process:
        """The reverse process of one purification, from x_{t*} of the image."""
        x0, noise = to_model(image), self._noise(image, noise)
        sampler = self.sampler(noise)
        start = sampler.solver.state(self.diffused(x0, noise, sampler.t_star))
        process = Process(x0, start, noise, sampler, self.bind(x0, noise))
        return process if self._trajectories is None else self._watched(process, self._trajectories)

    def diffused(self, x0: Tensor, noise: Noise, t: Tensor) -> Tensor:
        """x_t = s(t) (x0 + sigma(t) z_0), model frame, at t () or (B,) float64."""
        z = noise.normal(0, x0.shape[1:]).to(x0) if self.adds_noise else torch.zeros_like(x0)
        return per_row(self.schedule.scale(t.clone()), x0) * (x0 + per_row(self.schedule.sigma(t.clone()), x0) * z)

    def sampler(self, noise: Noise | None = None) -> Sampler:
        """Schedule, solver and times of a purification under ``noise``; None: the extremes over all noises."""
        return Sampler(self.schedule, self.solver, self.grid)

    def bind(self, x0: Tensor, noise: Noise) -> BoundDenoiser:
        """Denoiser of the purification of x0 (B,C,H,W), model frame, with the guidance of a subclass."""
        return BoundDenoiser(self.denoiser)

    @property
    def guides(self) -> tuple[nn.Module, ...]:
        """Modules that guide the process: gradient checks let them evaluate at either end of a step."""
        return ()

    @property
    def differentiated_twice(self) -> tuple[nn.Module, ...]:
        """Modules whose gradient is part of the process: an attack needs their second derivatives."""
        return self.guides

    def diffuse(self, image: Tensor, noise: Noise | None = None) -> Tensor:
        """x_{t*} in pixels, the start of the reverse process that ``forward`` runs with the same noise."""
        noise = self._noise(image, noise)
        return to_pixel(self.diffused(to_model(image), noise, self.sampler(noise).t_star))

    def _noise(self, image: Tensor, noise: Noise | None) -> Noise:
        noise = Noise.or_fresh(noise, check_near_pixels(image))
        check_weights_dtype(image, self)
        check_rows(noise, image)
        return noise.to(image.device)

    @contextmanager
    def differentiated(self, mode: str | Differentiation) -> Iterator[bool]:
        """Replace the mode of differentiation while the context lasts.

        Yields False if the process that runs while a gradient is recorded differs from the deployed one, as a
        surrogate's does. Raises ``ValueError`` on entry for an unknown name and for a mode that does not apply.
        """
        other, own, sampler = as_differentiation(mode), self.gradient, self.sampler()
        other.check(sampler)
        self.gradient = other
        try:
            with ALTERED.turned_on():
                yield other.attacked(sampler) is sampler
        finally:
            self.gradient = own

    def process_name(self, mode: str | Differentiation | None) -> str:
        """The mode and its time grid, ``"Adjoint, 100 steps of 0.001 from t = 0.1 to 1e-05"``; None: its own mode."""
        used = self.gradient if mode is None else as_differentiation(mode)
        name, grid = type(used).__name__, used.attacked(self.sampler()).grid
        if not isinstance(grid, TimeGrid):
            return name
        first, last, size = grid.times[0], grid.times[-1], grid.times[0] - grid.times[1]
        return f"{name}, {grid.steps} steps of {size:.3g} from t = {first:g} to {last:g}"

    def exact_gradient(self, mode: str | Differentiation | None) -> Differentiation:
        """Exact differentiation of the process that ``mode`` runs while a gradient is recorded; None: its own mode."""
        return ExactOf(self.gradient if mode is None else mode)

    @contextmanager
    def recorded(self) -> Iterator[list[Trajectory]]:
        """Collect the trajectories of all purifications that record a gradient while the context lasts, in order.

        Raises ``ValueError`` on entry for a mode that is not stepwise.
        """
        if not self.gradient.stepwise:
            name = type(self.gradient).__name__
            raise ValueError(f'the gradient {name} does not reach the intermediate states. Use gradient="checkpoint"')
        outer, self._trajectories = self._trajectories, []
        try:
            with ALTERED.turned_on():
                yield self._trajectories
        finally:
            self._trajectories = outer

    def _watched(self, process: Process, trajectories: list[Trajectory]) -> Process:
        """The process, with a new trajectory that collects its states if a gradient is recorded."""
        if not process.recording:
            return process
        trajectory = Trajectory(process.noise, partial(self.diffused, process.x0, process.noise))
        trajectories.append(trajectory)
        return replace(process, watch=trajectory.record)

    def gradient_findings(self, image: Tensor, noise: Noise, double: Any = None) -> list[Finding]:
        """Gradient checks of this purifier at ``image`` (1,C,H,W), pixels; ``double`` is a float64 copy or None."""
        return gradient_findings(self, image, noise, double)
