"""How a purification is differentiated. Except where said, that is the deployed discretisation.

| gradient | backward pass | memory | strength as an attack |
|---|---|---|---|
| ``Full`` | torch's graph of the whole loop | S networks | exact |
| ``Checkpoint`` | the same, one step at a time | S states + 1 network | exact |
| ``Adjoint`` | a second SDE, run backwards (what DiffPure's paper used) | 1 state + 1 network | approximate: weaker |
| ``Surrogate`` | exact, of a coarser sampler of the same defence | as ``Checkpoint`` | approximate: weaker |
| ``BPDA`` | the purifier counts as the identity | nothing | approximate: weakest |

A robust accuracy measured with an approximate gradient is an upper bound with an unknown gap: report it as such.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from common.diffusion.reverse_process import ReverseProcess
from common.diffusion.solvers import MARGINAL, EulerMaruyama, Solver, TorchSDE, as_solver, reverse_drift
from common.diffusion.time_grids import TimeGrid
from common.noise import Noise

Reverse = Callable[[ReverseProcess, Tensor, Noise, tuple[Tensor, ...]], Tensor]


class Gradient(Protocol):
    """A way to run the reverse process while a gradient is being recorded.

    ``reverse(process, xt, noise, context)`` returns the final state, connected to xt and to every context tensor.
    ``purify(purification, image)`` runs a whole purification with that reverse; ``purification(image, reverse)``
    calls ``reverse`` only when a gradient is recorded. ``check(process)`` raises ``ValueError`` for a process that it
    cannot serve. ``attacked(process)`` is the process that ``reverse`` runs, forward pass included. ``stepwise`` says
    that it goes through `ReverseProcess.walk`, and that a gradient flows back from each state on the way.
    """

    stepwise: bool = False

    def reverse(self, process: ReverseProcess, xt: Tensor, noise: Noise, context: tuple[Tensor, ...]) -> Tensor: ...

    def purify(self, purification: Callable[[Tensor, Reverse], Tensor], image: Tensor) -> Tensor:
        return purification(image, self.reverse)

    def check(self, process: ReverseProcess) -> None:
        return None

    def attacked(self, process: ReverseProcess) -> ReverseProcess:
        return process


class Full(Gradient):
    """Backpropagation through the whole loop: exact; memory grows with the number of steps."""

    stepwise = True

    def reverse(self, process: ReverseProcess, xt: Tensor, noise: Noise, context: tuple[Tensor, ...]) -> Tensor:
        return process.run(xt, noise, context)


class Checkpoint(Gradient):
    """Backpropagation step by step: the states x_t are stored, each step is recomputed when its turn comes. Exact.

    The gradient equals that of ``Full`` bit for bit where the kernels are deterministic. It reaches the state and the
    context and nothing else: not the networks' parameters, not a tensor that the process closes over. Second
    derivatives through it are refused. ``verify=True`` also stores each step's result and raises ``RuntimeError`` if
    recomputing does not reproduce it bit for bit, which tells redrawn noise, dropout or non-deterministic kernels.
    """

    stepwise = True

    def __init__(self, verify: bool = False) -> None:
        self.verify = verify

    def reverse(self, process: ReverseProcess, xt: Tensor, noise: Noise, context: tuple[Tensor, ...]) -> Tensor:
        draws = process.draws(noise, xt)

        def step(k: int, x: Tensor, *given: Tensor) -> Tensor:
            return process.step(k, x, draws, *given)

        return process.walk(lambda k, x: _RecomputedStep.apply(step, k, self.verify, x, *context), xt)


class _RecomputedStep(torch.autograd.Function):
    """``step(k, xt, *context)``, forgotten on the way forward and recomputed on the way back."""

    @staticmethod
    def forward(ctx: Any, step: Callable[..., Tensor], k: int, verify: bool, xt: Tensor, *context: Tensor) -> Tensor:
        ctx.step, ctx.k, ctx.verify = step, k, verify
        ctx.autocast = _autocast_state(xt.device.type)
        result = step(k, xt, *context)
        ctx.save_for_backward(xt, *context, *((result,) if verify else ()))
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        inputs, results = (tensors[:-1], tensors[-1:]) if ctx.verify else (tensors, ())
        needed = ctx.needs_input_grad[3:]
        copies = [x.detach().requires_grad_(need) for x, need in zip(inputs, needed, strict=True)]
        with torch.enable_grad(), ctx.autocast():
            recomputed = ctx.step(ctx.k, *copies)
        if results and not torch.equal(recomputed, results[0]):
            raise RuntimeError(
                f"recomputing step {ctx.k} gave another state than the forward pass, so its gradient would be wrong. "
                "Noise must be drawn before the step, networks must be in eval mode and kernels deterministic"
            )
        wanted = [x for x in copies if x.requires_grad]
        gradients = iter(torch.autograd.grad(recomputed, wanted, cotangent, allow_unused=True))
        return (None, None, None, *(next(gradients) if need else None for need in needed))


def _autocast_state(device: str) -> Callable[[], AbstractContextManager[Any]]:
    """A way back to the autocast setting in force now."""
    enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    cache = torch.is_autocast_cache_enabled()
    return lambda: torch.autocast(device, dtype=dtype, enabled=enabled, cache_enabled=cache)


class Adjoint(Gradient):
    """The stochastic adjoint of the reverse SDE by ``torchsde.sdeint_adjoint``, as DiffPure's paper (2205.07460) did.

    WARNING: these gradients are approximate. The backward pass solves another SDE, from the stiff end t_end where the
    forward pass never calls the network, on states that are simulated again instead of remembered. On a trained
    network of 8x8 digits at the paper's settings (Euler, dt = 1e-3, t_end = 1e-5) the cosine with the exact gradient
    was 0.77 and the relative error 0.65. A weak gradient makes a weak attack and inflates robustness; with the
    states stored, ``Checkpoint`` costs no more. It is offered to reproduce published figures, its error beside them
    (``common.diffusion.purifiers.measure_gradient``).

    Networks' parameters are excluded. The path runs through our own noise, so on the deployed grid the forward pass
    is that of ``EulerMaruyama``. ``dt`` or ``t_end`` other than the deployed grid's put the *attacked* process on a
    grid of its own, forward pass included. ``adjoint_method`` is torchsde's: None means its default, Milstein, as in
    the paper.
    """

    def __init__(self, dt: float | None = None, t_end: float | None = None, adjoint_method: str | None = None) -> None:
        self.dt = dt
        self.t_end = t_end
        self.adjoint_method = adjoint_method

    def attacked(self, process: ReverseProcess) -> ReverseProcess:
        if self.dt is None and self.t_end is None:
            return process
        times = _times(process)
        dt = times[0] - times[1] if self.dt is None else self.dt
        t_end = times[-1] if self.t_end is None else self.t_end
        return replace(process, grid=TimeGrid.uniform(times[0], t_end, dt=dt, t_max=process.schedule.t_max))

    def check(self, process: ReverseProcess) -> None:
        solver = process.solver
        if not (isinstance(solver, EulerMaruyama) or (isinstance(solver, TorchSDE) and solver.method == "euler")):
            raise ValueError(
                f"the adjoint is that of the reverse SDE by Euler-Maruyama; got the solver {type(solver).__name__}. "
                'Use solver="euler_maruyama", or the exact gradient="checkpoint"'
            )
        times = _times(self.attacked(process))
        if max(abs(times[0] - k * (times[0] - times[1]) - t) for k, t in enumerate(times[:-1])) > 1e-9:
            raise ValueError("the adjoint needs a grid of equal steps (the last may be shorter); use TimeGrid.uniform")

    def reverse(self, process: ReverseProcess, xt: Tensor, noise: Noise, context: tuple[Tensor, ...]) -> Tensor:
        from common.diffusion.torchsde_adapter import integrate_adjoint  # torchsde is slow to import and rarely needed

        process = self.attacked(process)
        draws = process.draws(noise, xt)
        if draws is None:
            raise ValueError("the adjoint of the reverse SDE needs a stochastic solver")

        def drift(x: Tensor, t: Tensor) -> Tensor:
            def denoise(y: Tensor, sigma: Tensor) -> Tensor:
                return process.denoise(y, sigma, *context)

            return reverse_drift(denoise, process.schedule, x, t)

        return integrate_adjoint(
            drift, process.schedule.diffusion, xt, _times(process), draws, context, adjoint_method=self.adjoint_method
        )


def _times(process: ReverseProcess) -> tuple[float, ...]:
    if not isinstance(process.grid, TimeGrid):
        raise ValueError(
            'the adjoint needs one grid for all rows, not one with a t_star for each. Use gradient="checkpoint"'
        )
    return process.grid.times


class BPDA(Gradient):
    """Backward-pass differentiable approximation (Athalye et al., arXiv 1802.00420): the purifier counts as identity.

    The image is purified as deployed; the backward pass hands the gradient at the purified image to the input. Weakest.
    """

    def reverse(self, process: ReverseProcess, xt: Tensor, noise: Noise, context: tuple[Tensor, ...]) -> Tensor:
        return process.run(xt, noise, context)

    def purify(self, purification: Callable[[Tensor, Reverse], Tensor], image: Tensor) -> Tensor:
        with torch.no_grad():
            purified = purification(image, self.reverse)
        return _Identity.apply(image, purified)  # type: ignore[no-any-return]


class _Identity(torch.autograd.Function):
    """``purified`` forward, the identity on ``image`` backward."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, purified: Tensor) -> Tensor:
        return purified.view_as(purified)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None]:
        return cotangent, None


class Surrogate(Gradient):
    """The exact gradient of a coarser sampler (Lee and Kim, arXiv 2303.09051): weaker than that of the deployed one.

    While a gradient is recorded the process runs in ``steps`` equal steps over the same times, by ``solver`` if one is
    given, forward pass included; without one it runs as deployed. ``steps=None`` keeps the grid, and needs a solver.
    ``gradient`` differentiates that process.
    """

    def __init__(
        self, steps: int | None = 20, gradient: str | Gradient = "checkpoint", solver: str | Solver | None = None
    ) -> None:
        if (solver if steps is None else steps) is None or (steps is not None and steps < 1):
            raise ValueError(f"a surrogate needs steps >= 1, or None and another solver; got steps={steps}")
        self.steps = steps
        self.gradient = as_gradient(gradient)
        self.solver = None if solver is None else as_solver(solver)
        if isinstance(self.solver, TorchSDE):
            raise ValueError('torchsde is no surrogate\'s solver. Use solver="euler_maruyama"')

    @property
    def stepwise(self) -> bool:  # type: ignore[override]
        return self.gradient.stepwise

    def attacked(self, process: ReverseProcess) -> ReverseProcess:
        return self.gradient.attacked(self._surrogate(process))

    def _surrogate(self, process: ReverseProcess) -> ReverseProcess:
        grid = process.grid if self.steps is None else process.grid.coarsen(self.steps)
        return replace(process, grid=grid, solver=self.solver or process.solver)

    def check(self, process: ReverseProcess) -> None:
        steps, deployed = self.steps or 1, process.grid.steps
        if steps > deployed or (steps == deployed and self.solver is None):
            raise ValueError(
                f"a surrogate must have fewer steps than the deployed process, {deployed}, or as many of another "
                f'solver; got {steps}. Lower Surrogate(steps), or use the exact gradient="checkpoint"'
            )
        if self.solver is not None and not isinstance(process.solver, MARGINAL):
            raise ValueError(f"no other solver stands in for {type(process.solver).__name__}. Use Surrogate(steps)")
        self.gradient.check(self._surrogate(process))

    def reverse(self, process: ReverseProcess, xt: Tensor, noise: Noise, context: tuple[Tensor, ...]) -> Tensor:
        return self.gradient.reverse(self._surrogate(process), xt, noise, context)


@dataclass(frozen=True)
class GradientError:
    """How far an approximate gradient is from the exact one, per image, (B,) each.

    ``relative`` = |approximate - exact| / |exact| (Euclidean), ``cosine`` between the two, and ``sign_agreement``, the
    share of pixels whose sign, all that an L-infinity attack uses, is right.
    """

    relative: Tensor
    cosine: Tensor
    sign_agreement: Tensor

    @classmethod
    def between(cls, approximate: Tensor, exact: Tensor) -> "GradientError":
        a, b = approximate.flatten(1).double(), exact.flatten(1).double()
        cosine = torch.nn.functional.cosine_similarity(a, b)
        return cls((a - b).norm(dim=1) / b.norm(dim=1), cosine, (a.sign() == b.sign()).double().mean(1))


_GRADIENTS: dict[str, Callable[[], Gradient]] = {
    "full": Full,
    "checkpoint": Checkpoint,
    "adjoint": Adjoint,
    "bpda": BPDA,
    "surrogate": Surrogate,
}


def as_gradient(gradient: str | Gradient) -> Gradient:
    """A gradient by the name that configurations use, or the gradient itself."""
    if not isinstance(gradient, str):
        return gradient
    if gradient not in _GRADIENTS:
        raise ValueError(f"gradient must be one of {', '.join(_GRADIENTS)}, or a Gradient; got {gradient!r}")
    return _GRADIENTS[gradient]()
