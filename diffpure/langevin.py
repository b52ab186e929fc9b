"""DiffPure's Langevin variant (its LDSDE, arXiv 2205.07460): dynamics anchored at the input, without diffusion."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from common.checks.images import check_like
from common.checks.settings import check_not_negative, check_optional, check_part, check_positive
from common.diffusion.bound_denoiser import BoundDenoiser, Denoise
from common.diffusion.differentiation import Differentiation
from common.diffusion.purifiers import DiffusionPurifier
from common.diffusion.reverse_sde import score
from common.diffusion.schedules import VP, Schedule, check_schedule, per_row
from common.diffusion.solvers import Solver
from common.diffusion.steps import Step
from common.noise import Noise
from common.numerics.copies import copied

STEP = 1e-2  # dt of the published code


class FixedLevel:
    """``schedule`` held at the time ``t_score``: constant scale and noise level. Times are durations only."""

    def __init__(self, schedule: Schedule, t_score: float) -> None:
        self.schedule, self.t_score = check_schedule("schedule", schedule), check_positive("t_score", t_score)
        self.t_max = schedule.t_max

    def _held(self, t: Tensor) -> Tensor:
        return torch.full_like(t, self.t_score)

    def sigma(self, t: Tensor) -> Tensor:
        return self.schedule.sigma(self._held(t))

    def scale(self, t: Tensor) -> Tensor:
        return self.schedule.scale(self._held(t))

    def time(self, sigma: Tensor) -> Tensor:
        return self._held(sigma)

    def drift(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def diffusion(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)


class Langevin(Solver):
    """Langevin dynamics at one noise level, by Euler-Maruyama with h = t - t_next, a duration:

        x <- x + (lambda_ld / 2) score(x, t_score) h + sqrt(lambda_ld h) eta z.

    At ``eta`` = 1 and for h -> 0 its stationary law has that score; ``eta`` > 1 is hotter. The denoiser is called at
    ``t_score`` alone.
    """

    stochastic = True

    def __init__(self, lambda_ld: float = 1e-2, eta: float = 5.0, t_score: float = 1e-2) -> None:
        check_positive("lambda_ld", lambda_ld)
        check_not_negative("eta", eta)
        check_positive("t_score", t_score)
        self.lambda_ld, self.eta, self.t_score = lambda_ld, eta, t_score

    def __call__(self, step: Step, x: Tensor, denoise: Denoise) -> Tensor:
        h, z = per_row(step.duration, x), step.z
        x0_hat = denoise(x / per_row(step.scale, x), step.level)
        mean = x + self.lambda_ld / 2 * h * score(step, x, x0_hat)
        return mean if z is None else mean + self.eta * (self.lambda_ld * h).sqrt() * z


@dataclass(frozen=True)
class AnchoredDenoiser(BoundDenoiser):
    """Anchored denoiser ``D(x, sigma) - s sigma^2 (s x - x_a) / sigma2``.

    It adds ``-(x_t - x_a) / sigma2`` to the score of x_t = s x. ``tensors`` hold the anchor x_a;
    ``scale`` is s, () float64, and ``sigma2`` the variance around the anchor.
    """

    scale: Tensor = field(kw_only=True)
    sigma2: float = field(kw_only=True)

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        (anchor,), s = self.tensors, per_row(self.scale, x)
        denoised = check_like("the denoiser", self.denoiser(*copied(x, sigma)), x)
        return denoised - s * per_row(sigma, x) ** 2 / self.sigma2 * (s * x - anchor)


class LangevinDiffPure(DiffusionPurifier):
    """Langevin dynamics around the input x_a, started there, for the duration ``t_star``:

        dx = -(lambda_ld / 2) [-score(x, t_score) + (x - x_a) / sigma2] dt + sqrt(lambda_ld) eta dw,

    i.e. ``Langevin`` with the score of p(x; t_score) N(x; x_a, sigma2). No noise is added beforehand: ``t_star``, in
    (0, t_max], is a duration, and ``diffuse`` returns the image. Gradients reach the image as the start and as
    the anchor, in every gradient mode; the adjoint is not offered.

    * ``sigma2``: variance of the anchor, model frame.
    * ``steps``: number of equal steps, or None for one per 1e-2 of ``t_star``, as in the paper's code.
    * ``dynamics``: a ``Langevin``; None is the one with the code's defaults.

    ``denoiser``, ``gradient`` and ``schedule`` (None: the VP-SDE) as in ``DiffPure``.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        t_star: float,
        sigma2: float = 1e-3,
        steps: int | None = None,
        dynamics: Langevin | None = None,
        gradient: str | Differentiation = "checkpoint",
        schedule: Schedule | None = None,
    ) -> None:
        check_positive("sigma2, the variance around the anchor,", sigma2)
        check_positive("t_star", t_star)
        check_optional(check_part, "dynamics", dynamics, Langevin)
        check_optional(check_schedule, "schedule", schedule)
        steps = max(1, round(t_star / STEP)) if steps is None else steps
        dynamics = dynamics or Langevin()
        schedule = FixedLevel(schedule or VP(), dynamics.t_score)
        super().__init__(denoiser, schedule, t_star, steps, dynamics, gradient, t_end=0.0)
        self.sigma2 = sigma2

    def bind(self, x0: Tensor, noise: Noise) -> BoundDenoiser:
        """``AnchoredDenoiser`` with the anchor x0 (B,C,H,W), model frame."""
        scale = self.schedule.scale(torch.zeros((), dtype=torch.float64))
        return AnchoredDenoiser(self.denoiser, (x0,), scale=scale, sigma2=self.sigma2)

    def diffused(self, x0: Tensor, noise: Noise, t: Tensor) -> Tensor:
        """x0, without noise, at every time."""
        return x0
