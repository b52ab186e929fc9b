"""Modes of differentiating a purification. Unless noted, the gradient is that of the deployed discretisation.

| mode | backward pass | memory | as an attack |
|---|---|---|---|
| ``Full`` | torch's graph of the whole loop | S networks | exact |
| ``Checkpoint`` | the same, one step at a time | S states + 1 network | exact |
| ``Adjoint`` | a second SDE, run backwards (in DiffPure's paper) | 1 state + 1 network | approximate: weaker |
| ``Surrogate`` | exact, of a coarser sampler of the same defence | as ``Checkpoint`` | approximate: weaker |
| ``BPDA`` | the identity in place of the purifier | none | approximate: weakest |

A robust accuracy measured with an approximate gradient is an upper bound with an unknown gap: report it as such.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from common.checks.settings import check_flag
from common.diffusion.reverse_process import Process, Sampler
from common.diffusion.steps import Step

Advance = Callable[[Step, Tensor], Tensor]


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
                process.watch(step, x)
        return x

    def advance(self, process: Process) -> Advance:
        """The function (step, x) -> next state that the loop calls."""
        return process.step

    def check(self, sampler: Sampler) -> None:
        """Raise ``ValueError`` for a sampler that this mode does not apply to."""

    def attacked(self, sampler: Sampler) -> Sampler:
        """The sampler that runs while a gradient is recorded, forward pass included."""
        return sampler


class Full(Differentiation):
    """Backpropagation through the whole loop: exact; memory grows with the number of steps."""

    @property
    def stepwise(self) -> bool:
        return True


class Checkpoint(Full):
    """Backpropagation step by step: the states x_t are stored and the backward pass recomputes each step. Exact.

    The gradient equals that of ``Full`` bit for bit where the kernels are deterministic. It reaches the state and the
    denoiser's ``tensors`` and nothing else: not the networks' parameters, not a tensor that the denoiser holds
    otherwise. Second derivatives raise an error. ``verify=True`` also stores each step's result and raises
    ``RuntimeError`` if recomputing does not reproduce it bit for bit: noise was drawn anew, a network is in training
    mode, or kernels are not deterministic.
    """

    def __init__(self, verify: bool = False) -> None:
        self.verify = check_flag("verify", verify)

    def advance(self, process: Process) -> Advance:
        return partial(_RecomputedStep.apply, process, self.verify, *process.denoise.tensors)


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
