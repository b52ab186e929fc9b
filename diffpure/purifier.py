"""DiffPure (Nie et al., arXiv 2205.07460): purification by diffusion and the reverse VP-SDE."""

from torch import nn

from common.checks.settings import check_optional
from common.diffusion.differentiation import Differentiation
from common.diffusion.purifiers import DiffusionPurifier
from common.diffusion.schedules import VP, Schedule, check_schedule
from common.diffusion.solvers import Solver


class DiffPure(DiffusionPurifier):
    """Purification by the reverse VP-SDE. A larger t_star removes more of the attack and of the image.

    The paper's t_star: CIFAR-10 0.1 (L-infinity 8/255), 0.075 (L2 0.5), 0.125 (unseen threats); ImageNet 0.15;
    CelebA-HQ 0.5. Its grid is the default one: Euler-Maruyama with a node every 1e-3 down to t_end = 1e-5, i.e. 100
    steps for t_star = 0.1. ``schedule`` None is the paper's VP-SDE. The rest is as in ``DiffusionPurifier``.

    The paper's and its code's other samplers:

    * probability-flow ODE: ``solver="probability_flow_euler"`` (or ``"..._heun"``, order 2);
    * DDPM, one step for each index: ``solver="ancestral", schedule=DDPM(), t_end=0``, x0 clipped by a ``Clipped``
      denoiser. Learned variances are not used: a denoiser is a mean. ``Ancestral("fixed_large")`` is beta_t;
    * Langevin dynamics: ``diffpure.langevin``; random depth: ``diffpure.randomised``;
    * several rounds, another resolution, fixed noise: ``common.diffusion.composed``.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        t_star: float,
        steps: int | None = None,
        solver: str | Solver = "euler_maruyama",
        gradient: str | Differentiation = "checkpoint",
        schedule: Schedule | None = None,
        t_end: float = 1e-5,
    ) -> None:
        check_optional(check_schedule, "schedule", schedule)
        super().__init__(denoiser, schedule or VP(), t_star, steps, solver, gradient, t_end)
