"""Reverse-time solvers: the formula of one step.

They discretise the reverse SDE (EulerMaruyama, TorchSDE), the probability flow (ProbabilityFlowEuler,
ProbabilityFlowHeun), both in ``common.diffusion.reverse_sde``, or take the posteriors of the discrete process
(Ancestral, DDIM). Throughout, y = x_t / s and x0_hat = D(y, sigma), D the denoiser.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from common.checks.settings import check_fraction, check_one_of, check_part
from common.diffusion.bound_denoiser import Denoise
from common.diffusion.reverse_sde import flow_drift, reverse_drift
from common.diffusion.schedules import per_row
from common.diffusion.steps import Step
from common.naming.choices import make


class Solver:
    """One step of a reverse process: ``solver(step, x, denoise)`` is the state at ``step.t_next``, (B,C,H,W).

    x is the state at ``step.t``. A pure, differentiable function of x, of the step's noise, which is None where
    ``stochastic`` is False, and of the tensors of ``denoise(x, sigma)``. A solver calls the denoiser at levels between
    those of t and t_next, and never at t_next of the last step.

    ``memory``: number of further images that a solver carries along, such as an optimiser's moments. Its states x are
    (B, (1 + memory) C, H, W), the image first. ``draws``: rows of noise for each image, ``noise.draws(draws)``.
    """

    stochastic: bool
    memory: int = 0
    draws: int = 1

    def __call__(self, step: Step, x: Tensor, denoise: Denoise) -> Tensor:
        raise NotImplementedError

    def state(self, image: Tensor) -> Tensor:
        """The initial state of an image (B,C,H,W), with an empty memory."""
        return torch.cat([image, *[torch.zeros_like(image)] * self.memory], dim=1) if self.memory else image

    def image(self, state: Tensor) -> Tensor:
        """The image (B,C,H,W) in a state."""
        return state.chunk(1 + self.memory, dim=1)[0] if self.memory else state


class EulerMaruyama(Solver):
    """``x <- x - h [f x - g^2 score] + g sqrt(h) z``, h = t - t_next: weak order 1; DiffPure's (arXiv 2205.07460)."""

    stochastic = True

    def __call__(self, step: Step, x: Tensor, denoise: Denoise) -> Tensor:
        h, z = step.duration, step.z
        x0_hat = denoise(x / per_row(step.scale, x), step.level)
        mean = x - per_row(h, x) * reverse_drift(step, x, x0_hat)
        return mean if z is None else mean + per_row(step.diffusion * h.sqrt(), x) * z


class ProbabilityFlowEuler(Solver):
    """``x <- x - h [f x - g^2 score / 2]``: Euler's method for the probability flow (2011.13456), order 1."""

    stochastic = False

    def __call__(self, step: Step, x: Tensor, denoise: Denoise) -> Tensor:
        x0_hat = denoise(x / per_row(step.scale, x), step.level)
        return x - per_row(step.duration, x) * flow_drift(step, x, x0_hat)


class ProbabilityFlowHeun(Solver):
    """Heun's method for the probability-flow ODE: order 2, two denoiser calls a step. With u = t_next,

        x' = x - h v(x, t),    x <- x - (h / 2) [v(x, t) + v(x', u)],    v = ``flow_drift``.

    The last step is Euler's, as in EDM (arXiv 2206.00364): next to no noise is left at t_end, and one step of local
    order 2 leaves the global order as it is.
    """

    stochastic = False

    def __call__(self, step: Step, x: Tensor, denoise: Denoise) -> Tensor:
        h, end = per_row(step.duration, x), step.next
        drift = flow_drift(step, x, denoise(x / per_row(step.scale, x), step.level))
        euler = x - h * drift
        if step.last:
            return euler
        drift_next = flow_drift(end, euler, denoise(euler / per_row(end.scale, x), end.level))
        return x - h / 2 * (drift + drift_next)


class DDIM(Solver):
    """The implicit model of Song et al. (arXiv 2010.02502), with u = t_next and y = x_t / s_t:

        c^2 = eta^2 sigma_u^2 (sigma_t^2 - sigma_u^2) / sigma_t^2,
        x_u = s_u [D + sqrt(sigma_u^2 - c^2) (y - D) / sigma_t + c z].

    eta = 0 follows the probability flow, eta = 1 is ``Ancestral("fixed_small")``. No noise in the last step.
    """

    def __init__(self, eta: float = 0.0) -> None:
        self.eta = check_fraction("eta", eta, note="0 is deterministic, 1 ancestral")
        self.stochastic = eta > 0

    def __call__(self, step: Step, x: Tensor, denoise: Denoise) -> Tensor:
        c = self.eta * step.sigma_next * (1 - (step.sigma_next / step.sigma) ** 2).sqrt()
        keep = (step.sigma_next**2 - c**2).sqrt() / step.sigma
        mean = interpolated(step, x, denoise(x / per_row(step.scale, x), step.level), keep)
        return noised(step, mean, step.scale_next * c)


class Ancestral(Solver):
    """The posterior step of Ho et al. (arXiv 2006.11239) between any two times, with u = t_next and y = x_t / s_t:

        x_u = s_u [D + (sigma_u^2 / sigma_t^2) (y - D)] + std z,
        std = s_u sigma_u sqrt(sigma_t^2 - sigma_u^2) / sigma_t      "fixed_small", the exact posterior of a point mass,
        std = s_t sqrt(sigma_t^2 - sigma_u^2)                        "fixed_large", Ho's beta_t.

    Small steps make the two equal; over large ones "fixed_large" adds more noise than the marginals have. No noise in
    the last step. On a ``DDPM`` schedule and a grid whose nodes are its indices this is DDPM sampling.
    """

    stochastic = True

    def __init__(self, variance: Literal["fixed_small", "fixed_large"] = "fixed_small") -> None:
        self.variance = check_one_of("variance", variance, ("fixed_small", "fixed_large"))

    def __call__(self, step: Step, x: Tensor, denoise: Denoise) -> Tensor:
        x0_hat = denoise(x / per_row(step.scale, x), step.level)
        return noised(step, self.mean(step, x, x0_hat), self.deviation(step))

    def mean(self, step: Step, x: Tensor, x0_hat: Tensor) -> Tensor:
        """The step without its noise, from the denoised image x0_hat = D, (B,C,H,W)."""
        return interpolated(step, x, x0_hat, (step.sigma_next / step.sigma) ** 2)

    def deviation(self, step: Step) -> Tensor:
        """std of the step, as above; the last step's too, which adds no noise."""
        widest = step.scale * step.sigma if self.variance == "fixed_large" else step.scale_next * step.sigma_next
        return widest * (1 - (step.sigma_next / step.sigma) ** 2).sqrt()


def interpolated(step: Step, x: Tensor, x0_hat: Tensor, keep: Tensor) -> Tensor:
    """``s_u [D + keep (y - D)]``, y = x / s_t, D = x0_hat; ``keep`` () or (B,) is the share of the noise that stays."""
    s, s_next = step.scale, step.scale_next
    return per_row(s_next * (1 - keep), x) * x0_hat + per_row(s_next * keep / s, x) * x


def noised(step: Step, mean: Tensor, std: Tensor) -> Tensor:
    """``mean + std z``; without noise in the last step."""
    z = None if step.last else step.z
    return mean if z is None else mean + per_row(std, mean) * z


class TorchSDE(Solver):
    """The reverse SDE by ``torchsde.sdeint``, step by step on our grid and driven by our noise.

    ``method="euler"`` equals ``EulerMaruyama`` to rounding; ``"midpoint"`` calls the denoiser twice a step. For
    comparisons with torchsde and its methods. All rows must share their times.
    """

    stochastic = True

    def __init__(self, method: Literal["euler", "midpoint"] = "euler") -> None:
        self.method = check_one_of("method", method, ("euler", "midpoint"))  # need one increment a step

    def __call__(self, step: Step, x: Tensor, denoise: Denoise) -> Tensor:
        import torchsde  # slow to import and rarely needed

        from common.diffusion.torchsde_adapter import step_arguments

        x0_hat = denoise(x / per_row(step.scale, x), step.level)
        states: Tensor = torchsde.sdeint(**step_arguments(step, x, x0_hat, denoise, self.method))
        return states[-1].view_as(x)


MARGINAL = (EulerMaruyama, Ancestral, DDIM, ProbabilityFlowEuler, ProbabilityFlowHeun, TorchSDE)
"""The solvers whose states have the schedule's marginals: each can stand in for another."""

SOLVERS: dict[str, Callable[[], Solver]] = {
    "euler_maruyama": EulerMaruyama,
    "ancestral": Ancestral,
    "ddim": DDIM,
    "probability_flow_euler": ProbabilityFlowEuler,
    "probability_flow_heun": ProbabilityFlowHeun,
    "torchsde": TorchSDE,
}
"""The names that configurations use."""


def as_solver(solver: str | Solver) -> Solver:
    """A solver by name, or the solver itself. Raises ``ValueError`` for an unknown name."""
    made: Solver = check_part("solver", make("solver", SOLVERS, solver, ", or a Solver"), Solver)
    return made
