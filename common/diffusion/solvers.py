"""Reverse-time solvers: one step each.

With D the denoiser, x_t = s y and x0 hat = D(y, sigma), the score is ``(s D - x_t) / (s sigma)^2`` and the processes
with the schedule's marginals, run from t down to 0, are

    dx = [f x - g^2 score] dt + g dw        (reverse SDE: EulerMaruyama, TorchSDE),
    dx = [f x - g^2 score / 2] dt           (probability flow: ProbabilityFlowEuler, ProbabilityFlowHeun),

and, in terms of sigma alone, the posteriors of the discrete process (Ancestral, DDIM). Times travel as float64 tensors:
a step's coefficients are exact whatever the dtype and the device of the state.
"""

from collections.abc import Callable
from typing import Literal, Protocol

from torch import Tensor

from common.diffusion.schedules import Schedule, per_row

Denoise = Callable[[Tensor, Tensor], Tensor]


class Solver(Protocol):
    """One step of a reverse process from t to t_next < t.

    ``step(denoise, schedule, xt, t, t_next, z, last)`` returns the state at t_next, shape of xt: a pure, differentiable
    function of its tensors. ``denoise(x, sigma)`` is a denoiser with everything else bound; z are standard normals, or
    None where ``stochastic`` is False; t and t_next are (B,) or (). ``last`` marks the final step of a process. The
    denoiser is called between t and t_next, never at t_next of the final step.
    """

    stochastic: bool

    def step(
        self,
        denoise: Denoise,
        schedule: Schedule,
        xt: Tensor,
        t: Tensor,
        t_next: Tensor,
        z: Tensor | None,
        last: bool = False,
    ) -> Tensor: ...


def level_of(value: Tensor, x: Tensor) -> Tensor:
    """A level, (B,) or (), in x's dtype and on x's device. From the CPU it arrives without a synchronisation."""
    if value.ndim == 0 and value.device != x.device:
        return x.new_full((), value.item())
    return value.to(x)


def posterior_mean(denoise: Denoise, schedule: Schedule, xt: Tensor, t: Tensor) -> Tensor:
    """x0 hat = D(x_t / s(t), sigma(t)), shape of xt."""
    return denoise(xt / per_row(schedule.scale(t), xt), level_of(schedule.sigma(t), xt).expand(len(xt)))


def score(denoise: Denoise, schedule: Schedule, xt: Tensor, t: Tensor) -> Tensor:
    """grad log p_t(x_t) = (s D - x_t) / (s sigma)^2."""
    s, sigma = per_row(schedule.scale(t), xt), per_row(schedule.sigma(t), xt)
    return (s * posterior_mean(denoise, schedule, xt, t) - xt) / (s * sigma) ** 2


def reverse_drift(denoise: Denoise, schedule: Schedule, xt: Tensor, t: Tensor, noise_share: float = 1.0) -> Tensor:
    """``f x - (1 + noise_share)/2 g^2 score``: reverse SDE at noise_share 1, probability flow at 0."""
    f, g = per_row(schedule.drift(t), xt), per_row(schedule.diffusion(t), xt)
    return f * xt - (1 + noise_share) / 2 * g**2 * score(denoise, schedule, xt, t)


class EulerMaruyama(Solver):
    """``x <- x - h [f x - g^2 score] + g sqrt(h) z``, h = t - t_next: weak order 1; DiffPure's solver (2205.07460)."""

    stochastic = True

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
        mean = xt - per_row(t - t_next, xt) * reverse_drift(denoise, schedule, xt, t)
        return mean if z is None else mean + per_row(schedule.diffusion(t) * (t - t_next).sqrt(), xt) * z


class DDIM(Solver):
    """The implicit model of Song et al. (arXiv 2010.02502), with u = t_next and y = x_t / s_t:

        c^2 = eta^2 sigma_u^2 (sigma_t^2 - sigma_u^2) / sigma_t^2,
        x_u = s_u [D + sqrt(sigma_u^2 - c^2) (y - D) / sigma_t + c z].

    eta = 0 follows the probability flow, eta = 1 is ``Ancestral("fixed_small")``. No noise in the last step.
    """

    def __init__(self, eta: float = 0.0) -> None:
        if not 0 <= eta <= 1:
            raise ValueError(f"eta must be in [0,1], 0 deterministic and 1 ancestral; got {eta}")
        self.eta = eta
        self.stochastic = eta > 0

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
        s, s_next, sigma, sigma_next = _levels(schedule, t, t_next)
        spread = self.eta * sigma_next * (1 - (sigma_next / sigma) ** 2).sqrt()
        keep = (sigma_next**2 - spread**2).sqrt() / sigma
        x0_hat = posterior_mean(denoise, schedule, xt, t)
        mean = per_row(s_next * (1 - keep), xt) * x0_hat + per_row(s_next * keep / s, xt) * xt
        return mean if z is None or last else mean + per_row(s_next * spread, xt) * z


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
        if variance not in ("fixed_small", "fixed_large"):
            raise ValueError(f'variance must be "fixed_small" or "fixed_large"; got {variance!r}')
        self.variance = variance

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
        s, s_next, sigma, sigma_next = _levels(schedule, t, t_next)
        keep = (sigma_next / sigma) ** 2
        x0_hat = posterior_mean(denoise, schedule, xt, t)
        mean = per_row(s_next * (1 - keep), xt) * x0_hat + per_row(s_next * keep / s, xt) * xt
        return mean if z is None or last else mean + per_row(self.deviation(schedule, t, t_next), xt) * z

    def deviation(self, schedule: Schedule, t: Tensor, t_next: Tensor) -> Tensor:
        """std of the step, as above; the last step's too, which adds no noise."""
        s, s_next, sigma, sigma_next = _levels(schedule, t, t_next)
        widest = s * sigma if self.variance == "fixed_large" else s_next * sigma_next
        return widest * (1 - (sigma_next / sigma) ** 2).sqrt()


def _levels(schedule: Schedule, t: Tensor, t_next: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scale at t and t_next, sigma at t and t_next."""
    return schedule.scale(t), schedule.scale(t_next), schedule.sigma(t), schedule.sigma(t_next)


class ProbabilityFlowEuler(Solver):
    """Euler's method for the probability-flow ODE (Song et al., arXiv 2011.13456): order 1."""

    stochastic = False

    def step(
        self,
        denoise: Denoise,
        schedule: Schedule,
        xt: Tensor,
        t: Tensor,
        t_next: Tensor,
        z: Tensor | None = None,
        last: bool = False,
    ) -> Tensor:
        return xt - per_row(t - t_next, xt) * reverse_drift(denoise, schedule, xt, t, noise_share=0.0)


class ProbabilityFlowHeun(Solver):
    """Heun's method for the probability-flow ODE: order 2, two denoiser calls a step.

    The last step is Euler's, as in EDM (arXiv 2206.00364), so that the denoiser is not asked at t_end, where next to no
    noise is left; one step of local order 2 leaves the global order as it is.
    """

    stochastic = False

    def step(
        self,
        denoise: Denoise,
        schedule: Schedule,
        xt: Tensor,
        t: Tensor,
        t_next: Tensor,
        z: Tensor | None = None,
        last: bool = False,
    ) -> Tensor:
        h = per_row(t - t_next, xt)
        slope = reverse_drift(denoise, schedule, xt, t, noise_share=0.0)
        euler = xt - h * slope
        if last:
            return euler
        return xt - h / 2 * (slope + reverse_drift(denoise, schedule, euler, t_next, noise_share=0.0))


class TorchSDE(Solver):
    """The reverse SDE by ``torchsde.sdeint``, step by step on our grid and driven by our noise.

    ``method="euler"`` gives what ``EulerMaruyama`` gives, to rounding; ``"midpoint"`` calls the denoiser twice a step.
    It is here to check the one against the other and to try torchsde's methods; t and t_next must have no dimension.
    """

    stochastic = True

    def __init__(self, method: Literal["euler", "midpoint"] = "euler") -> None:
        if method not in ("euler", "midpoint"):
            raise ValueError(f'method must be "euler" or "midpoint", which need one increment a step; got {method!r}')
        self.method = method

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
        from common.diffusion.torchsde_adapter import integrate_step  # torchsde is slow to import and rarely needed

        def drift(x: Tensor, time: Tensor) -> Tensor:
            return reverse_drift(denoise, schedule, x, time)

        return integrate_step(drift, schedule.diffusion, xt, t, t_next, z, self.method)


MARGINAL = (EulerMaruyama, Ancestral, DDIM, ProbabilityFlowEuler, ProbabilityFlowHeun, TorchSDE)
"""The solvers whose states have the schedule's marginals: each can stand in for another."""

_SOLVERS: dict[str, Callable[[], Solver]] = {
    "euler_maruyama": EulerMaruyama,
    "ancestral": Ancestral,
    "ddim": DDIM,
    "probability_flow_euler": ProbabilityFlowEuler,
    "probability_flow_heun": ProbabilityFlowHeun,
    "torchsde": TorchSDE,
}


def as_solver(solver: str | Solver) -> Solver:
    """A solver by the name that configurations use, or the solver itself."""
    if not isinstance(solver, str):
        return solver
    if solver not in _SOLVERS:
        raise ValueError(f"solver must be one of {', '.join(_SOLVERS)}, or a Solver; got {solver!r}")
    return _SOLVERS[solver]()
