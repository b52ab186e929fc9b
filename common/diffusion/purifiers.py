"""Purifiers: image -> image. Diffuse to t_star, run the reverse process, hand the result to whoever classifies."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from common.diffusion.gradients import Checkpoint, Gradient, GradientError, Reverse, as_gradient
from common.diffusion.reverse_process import ReverseProcess
from common.diffusion.schedules import Schedule, per_row
from common.diffusion.solvers import Solver, as_solver
from common.diffusion.time_grids import Grid, TimeGrid
from common.diffusion.trajectories import Trajectory
from common.noise import Noise
from common.numerics.finding import Finding
from common.units import to_model, to_pixel


class Purifier(nn.Module):
    """``forward(image, noise=None)``: pixels (B, C, H, W) in [0,1] to pixels, never clamped.

    ``diffuse(image, noise)`` is the image at its noisiest, for figures. Without ``noise`` both draw afresh.
    """

    def forward(self, image: Tensor, noise: Noise | None = None) -> Tensor:
        raise NotImplementedError

    def diffuse(self, image: Tensor, noise: Noise | None = None) -> Tensor:
        raise NotImplementedError


class DiffusionPurifier(Purifier):
    """Purification by a diffusion model: with x0 = 2 image - 1,

        x_{t*} = s(t*) (x0 + sigma(t*) z_0),    x_{t_{k}} = solver step k of x_{t_{k-1}},    k = 1..S,

    and the result is (x_{t_end} + 1)/2. Step 0 of the noise diffuses, step k drives solver step k.

    * ``denoiser``: called ``denoiser(x, sigma)``. It is frozen here (eval mode, no parameter gradients).
    * ``schedule``: with its times; ``t_star`` in (0, t_max].
    * ``steps``: number of equal steps, or None for DiffPure's grid with a node every 1e-3.
    * ``solver``: "euler_maruyama", "ancestral", "ddim", "probability_flow_euler", "probability_flow_heun", "torchsde",
      or a ``Solver``.
    * ``gradient``: "checkpoint", "full", "adjoint", "bpda", "surrogate", or a ``Gradient``; what each is worth is
      said in ``common.diffusion.gradients``.

    A gradient is recorded when grad mode is on and the image requires one; otherwise no graph is formed. Subclasses
    guide the process by ``prepare`` and ``denoise``. Attacks find ``differentiated`` and ``recorded`` by these names.

    Raises ``ValueError`` for times out of range, unknown names, noise levels that the denoiser does not know.
    """

    adds_noise = True  # False where the image has its noise already: z_0 is then 0

    def __init__(
        self,
        denoiser: nn.Module,
        schedule: Schedule,
        t_star: float,
        steps: int | None = None,
        solver: str | Solver = "euler_maruyama",
        gradient: str | Gradient = "checkpoint",
        t_end: float = 1e-5,
    ) -> None:
        super().__init__()
        self.denoiser = denoiser.requires_grad_(False).eval()
        self.schedule = schedule
        self.grid = TimeGrid.uniform(t_star, t_end, steps, t_max=schedule.t_max)
        self.solver = as_solver(solver)
        self.gradient = as_gradient(gradient)
        self._trajectories: list[Trajectory] | None = None
        self._check()

    def _grid(self, noise: Noise | None) -> Grid:
        """The times of a purification driven by ``noise``; without it, of all that may be asked for."""
        return self.grid

    def _process(self, noise: Noise | None = None) -> ReverseProcess:
        return ReverseProcess(self.denoise, self.schedule, self.solver, self._grid(noise))

    def _sigmas(self) -> Tensor:
        """The noise levels that the denoiser is asked for."""
        return self._process().sigmas()

    def _check(self) -> None:
        self.gradient.check(self._process())
        low = float(getattr(self.denoiser, "sigma_min", 0.0))
        high = float(getattr(self.denoiser, "sigma_max", torch.inf))
        sigmas = self._sigmas()
        most, least = float(sigmas.max()), float(sigmas.min())
        if least < low * (1 - 1e-6) or most > high * (1 + 1e-6):
            raise ValueError(
                f"the process asks the denoiser for noise levels {least:.4g} .. {most:.4g} (model frame), but it is "
                f"meant for {low:.4g} .. {high:.4g}. Change t_star, t_end or steps"
            )

    def train(self, mode: bool = True) -> "DiffusionPurifier":
        """Sets the mode of all but the denoiser, which stays in eval mode: with dropout it would be another defence."""
        super().train(mode)
        self.denoiser.eval()
        return self

    def prepare(self, x0: Tensor) -> tuple[Tensor, ...]:
        """Context computed once per purification from its input, model frame; handed to every ``denoise``."""
        return ()

    def _context(self, x0: Tensor, noise: Noise) -> tuple[Tensor, ...]:
        """What ``prepare`` returns, and what else ``denoise`` needs of the purification's noise."""
        return self.prepare(x0)

    def denoise(self, x: Tensor, sigma: Tensor, *context: Tensor) -> Tensor:
        """The denoiser of the process: E[x0 | x = x0 + sigma n], perhaps guided; sigma (B,) or ().

        Gradients flow through x and the context, not through tensors reached in another way.
        """
        denoised: Tensor = self.denoiser(x, sigma)
        return denoised

    def forward(self, image: Tensor, noise: Noise | None = None) -> Tensor:
        return self.purify(image, self._noise(image, noise), self.gradient)

    def purify(self, image: Tensor, noise: Noise, gradient: Gradient) -> Tensor:
        """``forward`` with another gradient than the purifier's own."""

        def purification(image: Tensor, reverse: Reverse) -> Tensor:
            return self._purify(image, noise, reverse)

        return gradient.purify(purification, image)

    @contextmanager
    def differentiated(self, gradient: str | Gradient) -> Iterator[bool]:
        """Another ``gradient`` than the purifier's own, while the context lasts.

        Yields whether what is asked while a gradient is recorded still gets the deployed process's answer: a surrogate
        gives another. Raises ``ValueError`` at once for an unknown name and for one that does not serve the process.
        """
        other, own, process = as_gradient(gradient), self.gradient, self._process()
        other.check(process)
        self.gradient = other
        try:
            yield other.attacked(process) is process
        finally:
            self.gradient = own

    @contextmanager
    def recorded(self) -> Iterator[list[Trajectory]]:
        """The trajectories of all purifications that record a gradient while the context lasts, in their order.

        Raises ``ValueError`` at once where the states on the way have no gradient.
        """
        if not self.gradient.stepwise:
            name = type(self.gradient).__name__
            raise ValueError(f'the gradient {name} does not reach the states on the way. Use gradient="checkpoint"')
        outer, self._trajectories = self._trajectories, []
        try:
            yield self._trajectories
        finally:
            self._trajectories = outer

    def gradient_findings(self, image: Tensor, noise: Noise, double: Any = None) -> list[Finding]:
        """Gradient checks of this purifier, see ``common.diffusion.gradient_check``; ``double``: a float64 copy."""
        from common.diffusion.gradient_check.verify import verify  # which differentiates purifiers

        return verify(self, image, noise, double)

    def diffuse(self, image: Tensor, noise: Noise | None = None) -> Tensor:
        """x_{t*} in pixels, the start of the reverse process that ``forward`` runs with the same noise."""
        return to_pixel(self._diffuse(to_model(image), self._noise(image, noise)))

    def _noise(self, image: Tensor, noise: Noise | None) -> Noise:
        if image.ndim != 4 or not image.is_floating_point():
            raise ValueError(f"an image batch is (B,C,H,W) floating point; got {image.dtype} {tuple(image.shape)}")
        noise = Noise.fresh(len(image)) if noise is None else noise
        if len(noise) != len(image):
            raise ValueError(f"noise must have one row per image, {len(image)}; got {len(noise)}. Use noise.draws(n)")
        return noise.to(image.device)

    def _diffuse(self, x0: Tensor, noise: Noise, t: Tensor | None = None) -> Tensor:
        """x_t of x0 and z_0; by default where the reverse process starts."""
        t = self._grid(noise).interval(1)[0] if t is None else t
        z = noise.normal(0, x0.shape[1:]).to(x0) if self.adds_noise else torch.zeros_like(x0)
        return per_row(self.schedule.scale(t), x0) * (x0 + per_row(self.schedule.sigma(t), x0) * z)

    def _purify(self, image: Tensor, noise: Noise, reverse: Reverse) -> Tensor:
        x0 = to_model(image)
        context = self._context(x0, noise)
        recording = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x0, *context))
        with torch.set_grad_enabled(recording):
            xt = self._diffuse(x0, noise)
            process, run = self._process(noise), reverse if recording else ReverseProcess.run
            if recording and self._trajectories is not None:
                trajectory = Trajectory(noise, lambda t: self._diffuse(x0, noise, t))
                self._trajectories.append(trajectory)
                process = replace(process, watch=trajectory.see)
            return to_pixel(run(process, xt, noise, context))


def measure_gradient(
    purifier: DiffusionPurifier, image: Tensor, noise: Noise, objective: Callable[[Tensor], Tensor]
) -> GradientError:
    """The error of ``purifier.gradient`` against the exact gradient of the deployed process, per image.

    ``objective`` maps purified images (B, C, H, W) to values per image, (B,).
    """

    def gradient_by(gradient: Gradient) -> Tensor:
        with torch.enable_grad():
            leaf = image.detach().requires_grad_()
            value = objective(purifier.purify(leaf, noise, gradient)).sum()
            return torch.autograd.grad(value, leaf)[0]

    return GradientError.between(gradient_by(purifier.gradient), gradient_by(Checkpoint()))
