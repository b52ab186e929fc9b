"""DiffPure's Langevin variant (its LDSDE, arXiv 2205.07460): nothing is diffused, the input is an anchor instead."""

import torch
from torch import Tensor, nn

from common.diffusion.gradients import Gradient
from common.diffusion.purifiers import DiffusionPurifier
from common.diffusion.schedules import VP, Schedule, per_row
from common.diffusion.solvers import Denoise, Solver, score
from common.noise import Noise

STEP = 1e-2  # the code's dt


class Langevin(Solver):
    """Langevin dynamics at one noise level, by Euler-Maruyama with h = t - t_next, which here is a mere duration:

        x <- x + (lambda_ld / 2) score(x, t_score) h + sqrt(lambda_ld h) eta z.

    At ``eta`` = 1 and for h -> 0 its stationary law has that score; ``eta`` > 1 is hotter. The denoiser is asked at
    ``t_score`` alone.
    """

    stochastic = True

    def __init__(self, lambda_ld: float = 1e-2, eta: float = 5.0, t_score: float = 1e-2) -> None:
        if not (lambda_ld > 0 and eta >= 0 and t_score > 0):
            got = f"lambda_ld={lambda_ld}, eta={eta}, t_score={t_score}"
            raise ValueError(f"Langevin needs lambda_ld > 0, eta >= 0 and t_score > 0; got {got}")
        self.lambda_ld, self.eta, self.t_score = lambda_ld, eta, t_score

    def step(
        self,
        denoise: Denoise,
        schedule: Schedule,
        xt: Tensor,
        t: Tensor,
        t_next: Tensor,
        z: Tensor | None,
        last: bool = False,
    ) -> Tensor:
        h = per_row(t - t_next, xt)
        mean = xt + self.lambda_ld / 2 * h * score(denoise, schedule, xt, self.level)
        return mean if z is None else mean + self.eta * (self.lambda_ld * h).sqrt() * z

    @property
    def level(self) -> Tensor:
        """``t_score``, () float64."""
        return torch.tensor(self.t_score, dtype=torch.float64)


class LangevinDiffPure(DiffusionPurifier):
    """Langevin dynamics around the attacked image x_a, started there, for the duration ``t_star``:

        dx = -(lambda_ld / 2) [-score(x, t_score) + (x - x_a) / sigma2] dt + sqrt(lambda_ld) eta dw,

    i.e. ``Langevin`` with the score of p(x; t_score) N(x; x_a, sigma2). No noise is added beforehand: ``t_star``, in
    (0, t_max], is no noise level, and ``diffuse`` returns the image. Gradients reach the image as the start and as
    the anchor, in every gradient mode; the adjoint is not offered.

    * ``sigma2``: variance of the anchor, model frame.
    * ``steps``: number of equal steps, or None for one per 1e-2 of ``t_star``, as in the paper's code.
    * ``dynamics``: a ``Langevin``; None is the one with the code's defaults.

    ``denoiser``, ``gradient`` and ``schedule`` (None: the VP-SDE) as in ``DiffPure``.
    """

    solver: Langevin

    def __init__(
        self,
        denoiser: nn.Module,
        t_star: float,
        sigma2: float = 1e-3,
        steps: int | None = None,
        dynamics: Langevin | None = None,
        gradient: str | Gradient = "checkpoint",
        schedule: Schedule | None = None,
    ) -> None:
        if not sigma2 > 0:
            raise ValueError(f"sigma2, the variance around the anchor, must be > 0; got {sigma2}")
        steps = max(1, round(t_star / STEP)) if steps is None else steps
        super().__init__(denoiser, schedule or VP(), t_star, steps, dynamics or Langevin(), gradient, t_end=0.0)
        self.sigma2 = sigma2

    def prepare(self, x0: Tensor) -> tuple[Tensor, ...]:
        """The anchor."""
        return (x0,)

    def denoise(self, x: Tensor, sigma: Tensor, *context: Tensor) -> Tensor:
        """``D(x, sigma) - s sigma^2 (x_t - x_a) / sigma2``, x_t = s x: the score gains ``-(x_t - x_a) / sigma2``."""
        (anchor,) = context
        s = self.schedule.scale(self.solver.level)
        pull = per_row(s, x) * x - anchor
        return super().denoise(x, sigma) - per_row(s, x) * per_row(sigma, x) ** 2 / self.sigma2 * pull

    def _diffuse(self, x0: Tensor, noise: Noise, t: Tensor | None = None) -> Tensor:
        return x0

    def _sigmas(self) -> Tensor:
        return self.schedule.sigma(self.solver.level)
