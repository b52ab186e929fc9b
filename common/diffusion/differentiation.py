"""Modes of differentiating a purification. Unless noted, the gradient is that of the deployed discretisation.

| mode | backward pass | memory | as an attack |
|---|---|---|---|
| ``Full`` | torch's graph of the whole loop | S networks | exact |
| ``Checkpoint`` | the same, one step at a time | S states + 1 network, or a budget | exact |
| ``Adjoint`` | a second SDE, run backwards (in DiffPure's paper) | 1 state + 1 network | approximate: weaker |
| ``Surrogate`` | exact, of a coarser sampler of the same defence | as ``Checkpoint`` | approximate: weaker |
| ``BPDA`` | the identity in place of the purifier | none | approximate: weakest |

A robust accuracy measured with an approximate gradient is an upper bound with an unknown gap: report it as such.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar
from weakref import ref

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from common.checks.settings import check_flag
from common.diffusion.reverse_process import Process, Sampler
from common.diffusion.steps import Step
from common.engine.allocation import keep_graphs
from common.engine.memory import Budget, budget_in_bytes, check_budget
from common.engine.precision import is_exact

Advance = Callable[[Step, Tensor], Tensor]

_NEVER = 2**62  # bytes of a graph that is not kept


class Differentiation:
    """A mode of differentiating a purification; it runs the process while a gradient is recorded.

    ``approximate``: True for a mode that is not the exact gradient of the deployed process. ``stepwise``: True if a
    gradient flows back from every intermediate state, not only from the last one.
    """

    approximate: ClassVar[bool] = False

    @property
    def stepwise(self) -> bool:
        return False

    def run(self, process: Process) -> Tensor:
        """x_{t_end}, connected to ``process.start`` and ``process.denoise.tensors``: the loop of every purification."""
        advance, x = self.advance(process), process.start
        for step in process.steps:
            x = advance(step, x)
            if process.watch is not None:
                process.watch(step, process.image(x))
        return process.image(x)

    def advance(self, process: Process) -> Advance:
        """The function (step, x) -> next state that the loop calls."""
        return process.step

    def check(self, sampler: Sampler) -> None:
        """Raise ``ValueError`` for a sampler that this mode does not apply to."""

    def attacked(self, sampler: Sampler) -> Sampler:
        """The sampler that runs while a gradient is recorded, forward pass included."""
        return sampler


class Full(Differentiation):
    """Backpropagation through the whole loop: exact; memory grows with the number of steps.

    On a CPU the program keeps the memory that it frees, from the first gradient on (`keep_graphs`).
    """

    @property
    def stepwise(self) -> bool:
        return True

    def advance(self, process: Process) -> Advance:
        keep_graphs(process.start.device.type, process.recording)
        return process.step


class Checkpoint(Full):
    """Backpropagation step by step: the states x_t are stored and the backward pass recomputes each step. Exact.

    ``memory``: bytes for the graphs of the last steps, as many as fit, which need not be recomputed; "auto" is a share
    of what is free, None the budget of the test (``Engine``), 0 outside of one. With a forward pass of cost 1 and a
    backward pass of cost b, S steps of which n keep their graph cost S (2 + b) - n instead of S (1 + b): recomputing
    all is 1.5 times as dear as keeping all where b = 1. The size of a graph is measured in the first step, which is
    computed once more for it. Guided processes are recomputed under every budget: PyTorch has two formulas for the
    backward pass of SiLU and of group norms, with and without a graph, so a step's last bits would depend on memory.

    The gradient is the same to the bit under every budget, and equals that of ``Full`` bit for bit where the kernels
    are deterministic and no step's bits depend on the graph. It reaches the state and the denoiser's ``tensors`` and
    nothing else: not the networks' parameters, not a tensor that the denoiser holds otherwise. Second derivatives raise
    an error. ``verify=True`` keeps no graph, stores each step's result and raises ``RuntimeError`` if recomputing does
    not reproduce it bit for bit: noise was drawn anew, a network is in training mode, or kernels are not deterministic.
    """

    not_identifying: ClassVar[frozenset[str]] = frozenset({"memory", "_graphs"})

    def __init__(self, verify: bool = False, memory: Budget | None = None) -> None:
        self.verify = check_flag("verify", verify)
        self.memory = None if memory is None else check_budget("memory", memory)
        self._graphs: dict[Any, int] = {}  # bytes of a step's graph, by what it depends on

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_graphs": {}}  # measured again by a copy, whose denoiser is another one

    def advance(self, process: Process) -> Advance:
        keep_graphs(process.start.device.type, process.recording)
        if self.verify:
            return _recomputed(process, verify=True)
        if process.denoise.takes_gradient:
            return _recomputed(process)
        budget = budget_in_bytes(process.start.device, self.memory)
        return _Budgeted(process, budget, self._graphs) if budget else _recomputed(process)


def _recomputed(process: "Process | _Measured", verify: bool = False) -> Advance:
    return partial(_RecomputedStep.apply, process, verify, *process.denoise.tensors)


class _Budgeted:
    """``advance`` of a process that keeps the graphs of its last steps, as many as fit ``budget`` bytes.

    The last ones, since they are freed before the first recomputed one needs its memory.
    """

    def __init__(self, process: Process, budget: int, graphs: dict[Any, int]) -> None:
        start = process.start
        autocast = (torch.is_autocast_enabled(start.device.type), torch.get_autocast_dtype(start.device.type))
        of_denoiser = (ref(process.denoise.denoiser), type(process.denoise), len(process.denoise.tensors), is_exact())
        self.key = (start.shape, start.dtype, start.device, autocast, type(process.sampler.solver), *of_denoiser)
        self.process, self.budget, self.graphs = process, budget, graphs
        self.recomputed = _recomputed(process if self.key in graphs else _Measured(process, graphs, self.key))

    def __call__(self, step: Step, x: Tensor) -> Tensor:
        kept = self.budget // max(1, self.graphs[self.key]) if self.key in self.graphs else 0
        if step.k > len(self.process.steps) - kept:
            return self.process.step(step, x)
        advanced: Tensor = self.recomputed(step, x)
        return advanced


class _Measured:
    """A process whose first step, run without a graph, measures the bytes that one would hold: ``graphs[key]``.

    These are the tensors saved for the backward pass, beside the step's inputs and noise and the networks' weights.
    `_NEVER` where the step with a graph gives other bits than without, as a denoiser may that takes a gradient inside:
    an attack must not depend on the memory of the machine.
    """

    def __init__(self, process: Process, graphs: dict[Any, int], key: Any) -> None:
        self.process, self.denoise, self.graphs, self.key = process, process.denoise, graphs, key

    def step(self, step: Step, x: Tensor, tensors: Sequence[Tensor]) -> Tensor:
        plain = self.process.step(step, x, tensors)
        if self.key in self.graphs:
            return plain
        inputs = [tensor.detach().requires_grad_() for tensor in (x, *tensors)]
        held: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            held[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.enable_grad(), saved_tensors_hooks(pack, lambda tensor: tensor):
            result = self.process.step(step, inputs[0], inputs[1:])
        for tensor in (*inputs, *self.denoise.weights(), *([step.z] if step.z is not None else [])):
            held.pop(tensor.untyped_storage().data_ptr(), None)
        self.graphs[self.key] = sum(held.values()) if torch.equal(result, plain) else _NEVER
        return plain


class _RecomputedStep(torch.autograd.Function):
    """``process.step(step, x, tensors)``; only its inputs are stored, and the backward pass recomputes the step.

    Called as ``apply(process, verify, *tensors, step, x)``.
    """

    @staticmethod
    def forward(ctx: Any, process: Process, verify: bool, *given: Any) -> Tensor:
        *tensors, step, x = given
        ctx.process, ctx.step, ctx.verify = process, step, verify
        ctx.autocast = _autocast_state(x.device.type)
        result = process.step(step, x, tensors)
        ctx.save_for_backward(*tensors, x, *((result,) if verify else ()))
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        inputs, results = (saved[:-1], saved[-1:]) if ctx.verify else (saved, ())
        *needed, _, need_x = ctx.needs_input_grad[2:]  # of tensors, step and x
        needed.append(need_x)
        *tensors, x = copies = [t.detach().requires_grad_(need) for t, need in zip(inputs, needed, strict=True)]
        with torch.enable_grad(), ctx.autocast():
            recomputed = ctx.process.step(ctx.step, x, tensors)
        if results and not torch.equal(recomputed, results[0]):
            raise RuntimeError(
                f"recomputing step {ctx.step.k} gave another state than the forward pass, so its gradient would be "
                "wrong. Noise must be drawn before the step, networks must be in eval mode and kernels deterministic"
            )
        wanted = [copy for copy in copies if copy.requires_grad]
        computed = iter(torch.autograd.grad(recomputed, wanted, cotangent, allow_unused=True))
        *gradients, gradient_x = [next(computed) if need else None for need in needed]
        return (None, None, *gradients, None, gradient_x)


def _autocast_state(device: str) -> Callable[[], AbstractContextManager[Any]]:
    """Context manager with the present autocast setting, for the recomputation."""
    enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    return partial(torch.autocast, device, dtype, enabled, torch.is_autocast_cache_enabled())


class BPDA(Differentiation):
    """Backward-pass differentiable approximation (Athalye et al., arXiv 1802.00420): the identity backwards.

    The image is purified as deployed; its gradient is that at the purified image. Weakest.
    """

    approximate = True

    def run(self, process: Process) -> Tensor:
        constant = process.denoise.over([tensor.detach() for tensor in process.denoise.tensors])
        with torch.no_grad():
            end = super().run(replace(process, denoise=constant))
        identity: Tensor = _Identity.apply(process.x0, end)
        return identity


class _Identity(torch.autograd.Function):
    """``end`` forward, the identity on ``x0`` backward."""

    @staticmethod
    def forward(ctx: Any, x0: Tensor, end: Tensor) -> Tensor:
        return end.view_as(end)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None]:
        return cotangent, None
