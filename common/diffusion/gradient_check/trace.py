"""Trace of a purification: its steps and network calls in the forward and in the backward pass, and their errors."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common.diffusion.steps import Step

SAME_STATE = 1e-4  # relative: neighbouring states are a step's noise apart


@dataclass(frozen=True)
class TracedStep:
    """A step with the states ``before`` and ``after`` it and its noise ``z``, detached."""

    step: Step
    before: Tensor
    z: Tensor | None
    after: Tensor

    @property
    def k(self) -> int:
        return self.step.k

    def error(self, other: "TracedStep") -> float:
        """Largest relative distance from ``other`` of states and noise."""
        pairs = [(self.before, other.before), (self.after, other.after)]
        if self.z is not None and other.z is not None:
            pairs.append((self.z, other.z))
        return max(_distance(a, b) for a, b in pairs)


@dataclass(frozen=True)
class TracedModule:
    """A denoiser, or a module of a guidance: the place ``name`` of ``module`` in its purifier."""

    name: str
    module: nn.Module
    guides: bool


@dataclass(frozen=True)
class NetworkCall:
    """A call of ``module`` with (x, sigma) in step k, None outside of all steps; sigma (n,) float64.

    Of x only the norm and one projection are kept. ``guides``: True for a module that guides the process, which may be
    evaluated at the mean of a step, at the lower level.
    """

    module: str
    guides: bool
    k: int | None
    sigma: Tensor
    norm: float
    projection: float

    def shift(self, other: "NetworkCall | None") -> float:
        """Distance of both x in one direction, relative to the norm of the other."""
        return torch.inf if other is None else abs(self.projection - other.projection) / other.norm


class Trace:
    """Steps and network calls of the forward pass and, after ``turn_round``, of the backward pass.

    All errors are relative; each is zero where no step was recomputed, or no network called.
    """

    def __init__(self) -> None:
        self.steps: tuple[list[TracedStep], list[TracedStep]] = ([], [])
        self.calls: tuple[list[NetworkCall], list[NetworkCall]] = ([], [])
        self.label_error = 0.0
        self.backward = False
        self.latest: dict[nn.Module, Tensor] = {}
        self._k: int | None = None

    def turn_round(self) -> None:
        """Begin the backward pass."""
        self.backward = True

    @contextmanager
    def inside(self, k: int) -> Iterator[None]:
        """Ascribe network calls to step k while the context lasts."""
        self._k = k
        try:
            yield
        finally:
            self._k = None

    def add_step(self, step: Step, before: Tensor, after: Tensor) -> None:
        z = None if step.z is None else step.z.detach()
        self.steps[self.backward].append(TracedStep(step, before.detach(), z, after.detach()))

    def add_call(self, called: TracedModule, x: Tensor, sigma: Tensor) -> None:
        level = sigma.detach().double().cpu().flatten()
        self.latest[called.module] = sigma.detach()
        if bool((level != 0).any()):  # guidance may evaluate its network on clean images in any step
            flat = x.detach().double().flatten()
            weights = torch.arange(len(flat), dtype=flat.dtype, device=flat.device).cos()
            call = NetworkCall(called.name, called.guides, self._k, level, float(flat.norm()), float(flat @ weights))
            self.calls[self.backward].append(call)

    def add_label(self, label: Tensor, expected: Tensor, slack: float) -> None:
        """Compare a network's time label with the one ``expected`` at the denoiser's noise level."""
        error = (label.detach().double() - expected).abs() - slack
        self.label_error = max(self.label_error, float((error / (1 + expected.abs())).max()))

    def state_error(self) -> float:
        """Error of recomputed steps against the steps that they repeat, and of calls outside of steps."""
        forward = {step.k: step for step in self.steps[0]}
        errors = [step.error(forward[step.k]) for step in self.steps[1] if step.k in forward]
        errors += [call.shift(self._nearest(call)) for call in self.calls[1] if call.k is None]
        return max(errors, default=0.0)

    def level_error(self) -> float:
        """Error of the noise levels of calls in the forward pass against those of their steps.

        The first call of a denoiser in a step is at the level where the step begins. Later calls, and those of a
        guidance network, lie between both ends.
        """
        steps, errors = {step.k: step.step for step in self.steps[0]}, [0.0]
        for (_, k), calls in _grouped(self.calls[0]).items():
            if k is None:
                continue
            high, low = steps[k].sigma, steps[k].sigma_next
            errors.append(_outside(calls[0].sigma, low if calls[0].guides else high, high))
            errors += [_outside(call.sigma, low, high) for call in calls[1:]]
        return max(errors)

    def recomputed_level_error(self) -> float:
        """Error of the noise levels in the recomputation against those of the same states in the forward pass."""
        errors, forward = [0.0], _grouped(self.calls[0])
        for step in self.steps[1]:
            level = self._level(step)
            errors.append(_outside(step.step.sigma.double().cpu().flatten(), level, level))
        for (module, k), calls in _grouped(self.calls[1]).items():
            for place, call in enumerate(calls):
                candidates = forward.get((module, k), []) if k is not None else []
                match = candidates[place % len(candidates)] if candidates else self._nearest(call)
                errors.append(torch.inf if match is None else _outside(call.sigma, match.sigma, match.sigma))
        return max(errors)

    def _level(self, step: TracedStep) -> Tensor:
        """The level that the state of a recomputed step had in the forward pass."""
        same = [other for other in self.steps[0] if other.k == step.k]
        if not same or _distance(step.before, same[0].before) > SAME_STATE:
            same = [other for other in self.steps[0] if _distance(step.before, other.before) <= SAME_STATE] or same
        return same[0].step.sigma if same else step.step.sigma

    def _nearest(self, call: NetworkCall) -> NetworkCall | None:
        """The call of the same module in the forward pass with the nearest x."""
        same = [other for other in self.calls[0] if other.module == call.module]
        return min(same, key=call.shift, default=None)


def _grouped(calls: list[NetworkCall]) -> dict[tuple[str, int | None], list[NetworkCall]]:
    groups: dict[tuple[str, int | None], list[NetworkCall]] = defaultdict(list)
    for call in calls:
        groups[call.module, call.k].append(call)
    return groups


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm()) if a.shape == b.shape else torch.inf


def _outside(sigma: Tensor, low: Tensor, high: Tensor) -> float:
    """Distance of levels from the interval [low, high], as a share of high; all (n,) or ()."""
    low, high = low.double().cpu(), high.double().cpu()
    if len(sigma) % max(1, low.numel()):
        low, high = low.amin(), high.amax()
    else:  # one call may hold several copies of the batch
        low, high = (end.repeat(len(sigma) // end.numel()) if end.ndim else end for end in (low, high))
    return float((torch.maximum(low - sigma, sigma - high) / high).clamp(min=0).max())
