"""What a purification asks of its networks, step by step, on the way forward and on the way back."""

import inspect
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from common.diffusion.denoisers import Denoiser, EDMDenoiser, EpsDenoiser
from common.diffusion.reverse_process import Draws, ReverseProcess
from common.diffusion.schedules import DDPM

if TYPE_CHECKING:
    from common.diffusion.purifiers import DiffusionPurifier

SAME_STATE = 1e-4  # relative: neighbouring states are a step's noise apart


@dataclass(frozen=True)
class Step:
    """Step ``number``: it begins at ``t``, where the level is ``high``, and ends at level ``low``; states and noise."""

    number: int
    t: Tensor
    high: Tensor
    low: Tensor
    before: Tensor
    z: Tensor | None
    after: Tensor


@dataclass(frozen=True)
class Question:
    """``module`` was asked at ``sigma`` (n,) float64 about x, of which its length and one projection are kept.

    ``number`` is the step in which it happened, None outside of all.
    """

    module: str
    number: int | None
    sigma: Tensor
    length: float
    projection: float


class Trace:
    """Steps and questions: ``forward`` and, after ``turn_round``, those of the ``backward`` pass.

    All errors are relative; each is zero where nothing was recomputed, or asked.
    """

    def __init__(self) -> None:
        self.steps: tuple[list[Step], list[Step]] = ([], [])
        self.questions: tuple[list[Question], list[Question]] = ([], [])
        self.label_error = 0.0
        self.backward = False
        self.number: int | None = None
        self.latest: dict[nn.Module, Tensor] = {}

    def turn_round(self) -> None:
        """The forward pass is over."""
        self.backward = True

    def state_error(self) -> float:
        """Of recomputed steps against the steps that they repeat, and of questions outside of steps."""
        known = {step.number: step for step in self.steps[0]}
        errors = [_step_error(step, known[step.number]) for step in self.steps[1] if step.number in known]
        errors += [_shift(asked, self._nearest(asked)) for asked in self.questions[1] if asked.number is None]
        return max(errors, default=0.0)

    def _level(self, step: Step) -> Tensor:
        """The level that the state of a recomputed step had in the forward pass."""
        same = [known for known in self.steps[0] if known.number == step.number]
        if not same or _apart(step.before, same[0].before) > SAME_STATE:
            same = [known for known in self.steps[0] if _apart(step.before, known.before) <= SAME_STATE] or same
        return same[0].high if same else step.high

    def _nearest(self, asked: Question) -> Question | None:
        """The question in the forward pass that was about the nearest x."""
        same = [question for question in self.questions[0] if question.module == asked.module]
        return min(same, key=lambda question: _shift(asked, question), default=None)

    def level_error(self, fixed: Tensor | None = None) -> float:
        """Of the levels asked for in the forward pass against those of their steps.

        The first question to a denoiser in a step is at the level where the step begins, others, and those to what
        guides it, are not outside of it.
        ``fixed`` is the level of dynamics that know no other. A clean image (level 0) may be looked at in any step.
        """
        steps, errors = {step.number: step for step in self.steps[0]}, [0.0]
        for (name, number), asked in _grouped(self.questions[0]).items():
            if number is None:
                continue
            high = steps[number].high if fixed is None else fixed
            low = steps[number].low if fixed is None else fixed
            guides = f"{name}.".startswith("guidance.")  # perhaps at the mean of the step, which ends lower
            errors.append(_outside(asked[0].sigma, low if guides else high, high))
            errors += [_outside(question.sigma, low, high) for question in asked[1:]]
        return max(errors)

    def recomputed_level_error(self) -> float:
        """Of the levels in the recomputation against those that the same states had in the forward pass."""
        errors, before = [0.0], _grouped(self.questions[0])
        for step in self.steps[1]:
            level = self._level(step)
            errors.append(_outside(step.high.double().cpu().flatten(), level, level))
        for (module, number), asked in _grouped(self.questions[1]).items():
            for place, question in enumerate(asked):
                known_questions = before.get((module, number), []) if number is not None else []
                match = known_questions[place % len(known_questions)] if known_questions else self._nearest(question)
                errors.append(torch.inf if match is None else _outside(question.sigma, match.sigma, match.sigma))
        return max(errors)

    def stepped(self, process: ReverseProcess, number: int, before: Tensor, z: Tensor | None, after: Tensor) -> None:
        """Takes down a step."""
        t, t_next = process.grid.interval(number)
        high, low = process.schedule.sigma(t), process.schedule.sigma(t_next)
        step = Step(number, t, high, low, before.detach(), None if z is None else z.detach(), after.detach())
        self.steps[self.backward].append(step)

    def asked(self, name: str, module: nn.Module, x: Tensor, sigma: Tensor) -> None:
        """Takes down a question."""
        level = sigma.detach().double().cpu().flatten()
        self.latest[module] = sigma.detach()
        if bool((level != 0).any()):
            flat = x.detach().double().flatten()
            weights = torch.arange(len(flat), dtype=flat.dtype, device=flat.device).cos()
            question = Question(name, self.number, level, float(flat.norm()), float(flat @ weights))
            self.questions[self.backward].append(question)

    def told(self, denoiser: nn.Module, label: Tensor) -> None:
        """Takes in what a denoiser tells its network of the level that it was asked at."""
        wanted = _label(denoiser, self.latest[denoiser].double())
        if wanted is not None:
            value, slack = wanted
            error = (label.detach().double() - value).abs() - slack
            self.label_error = max(self.label_error, float((error / (1 + value.abs())).max()))


@contextmanager
def traced(purifier: "DiffusionPurifier") -> Iterator[tuple["DiffusionPurifier", Trace]]:
    """A copy of the purifier that shares all modules with it and writes down what it does, while the context lasts."""
    trace, twin = Trace(), copy(purifier)
    twin.__dict__["_process"] = lambda noise=None: _watched(purifier._process(noise), trace)
    with ExitStack() as stack:
        for name, module in purifier.named_modules():
            if _takes_level(purifier, name, module):
                stack.callback(module.register_forward_pre_hook(_asks(trace, name), with_kwargs=True).remove)
            if isinstance(module, EDMDenoiser | EpsDenoiser):
                stack.callback(module.network.register_forward_pre_hook(_tells(trace, module)).remove)
        yield twin, trace


def _watched(process: ReverseProcess, trace: Trace) -> ReverseProcess:
    """The process, whose steps the trace takes down."""
    watched = copy(process)

    def step(k: int, xt: Tensor, draws: Draws | None, *context: Tensor) -> Tensor:
        trace.number = k
        try:
            after = process.step(k, xt, draws, *context)
        finally:
            trace.number = None
        trace.stepped(process, k, xt, None if draws is None else draws[k], after)
        return after

    object.__setattr__(watched, "step", step)
    return watched


def _takes_level(purifier: "DiffusionPurifier", name: str, module: nn.Module) -> bool:
    """Denoisers, and what else of a purifier is called with a ``sigma``."""
    if module is purifier.denoiser or isinstance(module, Denoiser):
        return True
    return not f"{name}.".startswith("denoiser.") and "sigma" in inspect.signature(module.forward).parameters


def _asks(trace: Trace, name: str) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = inspect.signature(module.forward).bind_partial(*args, **kwargs).arguments
        values = list(given.values())
        sigma = given.get("sigma", values[1] if len(values) > 1 else None)
        if isinstance(sigma, Tensor):
            trace.asked(name, module, values[0], sigma)

    return hook


def _tells(trace: Trace, denoiser: nn.Module) -> Any:
    def hook(network: nn.Module, args: tuple[Any, ...]) -> None:
        if len(args) > 1 and isinstance(args[1], Tensor) and denoiser in trace.latest:
            trace.told(denoiser, args[1])

    return hook


def _label(denoiser: nn.Module, sigma: Tensor) -> tuple[Tensor, float] | None:
    """The label that ``sigma`` has for the network, and how far rounding may lead from it."""
    if isinstance(denoiser, EDMDenoiser):
        return sigma.log() / 4, 0.0
    if not isinstance(denoiser, EpsDenoiser):
        return None
    if denoiser.rounding == "continuous" or not isinstance(denoiser.schedule, DDPM):
        return denoiser.time_scale * denoiser.schedule.time(sigma), 0.0
    exact = denoiser.index_scale * denoiser.schedule.index(sigma, "interpolate")
    return exact, denoiser.index_scale * (0.5 if denoiser.rounding == "nearest" else 0.0)


def _grouped(questions: list[Question]) -> dict[tuple[str, int | None], list[Question]]:
    groups: dict[tuple[str, int | None], list[Question]] = defaultdict(list)
    for question in questions:
        groups[question.module, question.number].append(question)
    return groups


def _step_error(step: Step, known: Step) -> float:
    pairs = [(step.before, known.before), (step.after, known.after)]
    if step.z is not None and known.z is not None:
        pairs.append((step.z, known.z))
    return max(_apart(a, b) for a, b in pairs)


def _apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm()) if a.shape == b.shape else torch.inf


def _shift(asked: Question, known: Question | None) -> float:
    """How far two questions' x are apart, in one direction."""
    return torch.inf if known is None else abs(asked.projection - known.projection) / known.length


def _outside(sigma: Tensor, low: Tensor, high: Tensor) -> float:
    """How far the levels lie outside of [low, high], as a share of high; all (n,) or ()."""
    low, high = low.double().cpu(), high.double().cpu()
    if len(sigma) % max(1, low.numel()):
        low, high = low.amin(), high.amax()
    else:  # a network may be asked several times over in one call
        low, high = (end.repeat(len(sigma) // end.numel()) if end.ndim else end for end in (low, high))
    return float((torch.maximum(low - sigma, sigma - high) / high).clamp(min=0).max())
