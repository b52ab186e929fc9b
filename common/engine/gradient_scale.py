"""Scaled gradients inside a network that computes in float16."""

from typing import Any, Optional

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

_EXPONENT = 6  # of the largest cotangent of a row, 2^6: 2^10 below the largest float16, 2^20 above the least normal one
_BIAS, _MANTISSA = 127, 23  # of float32


class GradientScale:
    """Scale of the gradients of one call of a network for B images, a power of two for each row.

    Gradients of an attack may be far below 6e-8, the least float16. The cotangent of the outputs is multiplied by

        S_b = 2^(7 - e_b),   e_b the exponent of its largest value (`torch.frexp`),

    before it enters the network, and the gradient of the inputs, in float32 again, is divided by S_b: both are exact.
    Where the gradient overflows inside the network all the same, it is infinite or NaN, and an attack leaves it out and
    counts it as dead (``AttackResult``). There is no second derivative. Forward-mode differentiation is not scaled:
    tangents are as large as the caller makes them.
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.factor: Tensor | None = None  # (B,), from the backward pass of the outputs to that of the inputs

    @classmethod
    def of(cls, dtype: torch.dtype | None, image: Tensor, network: nn.Module, inputs: Any) -> Optional["GradientScale"]:
        """The scale of a call with a gradient in float16; None in any other type, which has the range of float32.

        None of a network that is trained, and with ``inputs`` that need a gradient but are not float32 of B rows,
        such as an embedding that all rows share: these gradients would be scaled.
        """
        if dtype != torch.float16 or not torch.is_grad_enabled() or not image.ndim:
            return None
        trained = any(parameter.requires_grad for parameter in network.parameters())
        scale = cls(len(image))
        needed = [value for value in tree_leaves(inputs) if isinstance(value, Tensor) and value.requires_grad]
        return None if trained or not all(map(scale._scales, needed)) else scale

    def enter(self, value: Any) -> Any:
        """An input of the network."""
        return _Enter.apply(self, value) if self._scales(value) and value.requires_grad else value

    def leave(self, outputs: Any) -> Any:
        """The outputs of the network, in float32."""
        scaled = [value for value in tree_leaves(outputs) if self._scales(value) and value.requires_grad]
        if not scaled:
            return outputs
        left = dict(zip(map(id, scaled), _Leave.apply(self, *scaled), strict=True))
        return tree_map(lambda value: left.get(id(value), value), outputs)

    def _scales(self, value: Any) -> bool:
        rows = isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 0 and len(value) == self.rows
        return rows and value.dtype == torch.float32


class _Enter(torch.autograd.Function):
    """An input; its gradient is divided by the scale."""

    @staticmethod
    def forward(scale: GradientScale, value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[GradientScale, Tensor], output: Tensor) -> None:
        ctx.scale = inputs[0]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        factor = ctx.scale.factor
        return None, gradient if factor is None else gradient / _per_row(factor, gradient)

    @staticmethod
    def jvp(ctx: Any, scale: None, tangent: Tensor) -> Tensor:
        return tangent.view_as(tangent)


class _Leave(torch.autograd.Function):
    """Outputs; their cotangents are multiplied by the scale."""

    @staticmethod
    def forward(scale: GradientScale, *values: Tensor) -> tuple[Tensor, ...]:
        return tuple(value.view_as(value) for value in values)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.scale = inputs[0]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        largest = torch.stack([each.flatten(1).abs().amax(1) for each in cotangents]).amax(0)
        factor = ctx.scale.factor = _power(largest)
        return None, *(each * _per_row(factor, each) for each in cotangents)

    @staticmethod
    def jvp(ctx: Any, scale: None, *tangents: Tensor | None) -> tuple[Tensor | None, ...]:
        return tuple(None if each is None else each.view_as(each) for each in tangents)


def _power(largest: Tensor) -> Tensor:
    """2^(7 - e) for ``largest`` (B,) = m 2^e with m in [1/2, 1); 1 for 0 and what is not finite."""
    exponent = torch.frexp(torch.where(largest.isfinite() & (largest > 0), largest, 2.0**_EXPONENT)).exponent
    bits = (_EXPONENT + 1 - exponent).clamp(-_BIAS + 1, _BIAS) + _BIAS
    return (bits.to(torch.int32) << _MANTISSA).view(torch.float32)


def _per_row(factor: Tensor, like: Tensor) -> Tensor:
    return factor.view(-1, *(1,) * (like.ndim - 1))
