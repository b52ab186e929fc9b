"""Tracing a purification: hooks that fill a ``Trace`` with its steps and its network calls."""

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, cast

from torch import Tensor, nn

from common.diffusion.bound_denoiser import Denoise
from common.diffusion.denoisers import Denoiser, EDMDenoiser, EpsDenoiser
from common.diffusion.differentiation import Differentiation
from common.diffusion.gradient_check.checked_purifier import CheckedPurifier
from common.diffusion.gradient_check.trace import Trace, TracedModule
from common.diffusion.reverse_process import Process, Sampler
from common.diffusion.schedules import DDPM
from common.diffusion.solvers import Solver
from common.diffusion.steps import Step


class TracedMode(Differentiation):
    """The differentiation ``mode``, whose process runs with a traced solver."""

    def __init__(self, mode: Differentiation, trace: Trace) -> None:
        self.mode, self.trace = mode, trace

    def run(self, process: Process) -> Tensor:
        solver = TracedSolver(process.sampler.solver, self.trace)
        return self.mode.run(replace(process, sampler=replace(process.sampler, solver=solver)))

    def check(self, sampler: Sampler) -> None:
        self.mode.check(sampler)

    def attacked(self, sampler: Sampler) -> Sampler:
        return self.mode.attacked(sampler)


class TracedSolver(Solver):
    """A solver whose steps enter the trace, in the forward pass and in recomputations."""

    def __init__(self, solver: Solver, trace: Trace) -> None:
        self.solver, self.trace, self.stochastic = solver, trace, solver.stochastic
        self.memory, self.draws = solver.memory, solver.draws

    def __call__(self, step: Step, x: Tensor, denoise: Denoise) -> Tensor:
        with self.trace.inside(step.k):
            after = self.solver(step, x, denoise)
        self.trace.add_step(step, x, after)
        return after


@contextmanager
def traced(purifier: CheckedPurifier, mode: Differentiation) -> Iterator[tuple[Trace, TracedMode]]:
    """Trace of ``purifier`` while the context lasts, and the traced ``mode`` to differentiate it by."""
    trace, denoiser = Trace(), purifier.denoiser
    inside = set(denoiser.modules())
    guiding = {module for guide in purifier.guides for module in guide.modules()} - inside
    with ExitStack() as stack:
        for name, module in cast(nn.Module, purifier).named_modules():
            if module is denoiser or isinstance(module, Denoiser) or (module not in inside and _takes_sigma(module)):
                hook = partial(_add_call, trace, TracedModule(name, module, module in guiding))
                stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
            if isinstance(module, EDMDenoiser | EpsDenoiser):
                stack.callback(module.network.register_forward_pre_hook(partial(_add_label, trace, module)).remove)
        yield trace, TracedMode(mode, trace)


def _takes_sigma(module: nn.Module) -> bool:
    """True for a guidance network, which is called with a ``sigma``."""
    return "sigma" in inspect.signature(module.forward).parameters


def _add_call(
    trace: Trace, called: TracedModule, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Forward pre-hook of a denoiser or a guidance network: its x and sigma enter the trace."""
    arguments = inspect.signature(module.forward).bind_partial(*args, **kwargs).arguments
    values = list(arguments.values())
    sigma = arguments.get("sigma", values[1] if len(values) > 1 else None)
    if isinstance(sigma, Tensor):
        trace.add_call(called, values[0], sigma)


def _add_label(trace: Trace, denoiser: nn.Module, network: nn.Module, args: tuple[Any, ...]) -> None:
    """Forward pre-hook of a denoiser's network: its time label enters the trace, with the expected one."""
    if len(args) > 1 and isinstance(args[1], Tensor) and denoiser in trace.latest:
        expected = _label(denoiser, trace.latest[denoiser].double())
        if expected is not None:
            trace.add_label(args[1], *expected)


def _label(denoiser: nn.Module, sigma: Tensor) -> tuple[Tensor, float] | None:
    """Expected time label of ``sigma``, and the largest deviation by rounding to an index; None if unknown."""
    if isinstance(denoiser, EDMDenoiser):
        return sigma.log() / 4, 0.0
    if not isinstance(denoiser, EpsDenoiser):
        return None
    if denoiser.rounding == "continuous" or not isinstance(denoiser.schedule, DDPM):
        return denoiser.time_scale * denoiser.schedule.time(sigma), 0.0
    exact = denoiser.index_scale * denoiser.schedule.index(sigma, "interpolate")
    return exact, denoiser.index_scale * (0.5 if denoiser.rounding == "nearest" else 0.0)
