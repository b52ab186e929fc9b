"""Compiled forward pass of a network: few shapes, never slower than eager, never a failed test."""

import copy
import time
import warnings
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

LEAST_ROWS = 16
TRIALS = 3
SLOWEST = 0.95
"""A compiled network stays in use at this fraction of the eager speed or more."""

_GRAPHS = 64  # shapes and modes that PyTorch keeps for one class of network; its default of 8 is soon used up


class Compiled:
    """``network.forward`` through ``torch.compile``; a deep copy of the network is compiled on its own.

    Shapes are static: a batch is padded to a power of two of rows, at least 16, with copies of its first row, so that
    there are few. For evaluations without and with a gradient, the first call times both ways. Where the compiled one
    reaches less than 0.95 of the eager speed, or cannot be compiled on this machine, the network runs eagerly with a
    warning. Compiled networks have no second derivatives.
    """

    identifies_nothing = True  # the same numbers, faster: no part of a run's fingerprint

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.eager: Callable[..., Any] = MethodType(type(network).forward, network)
        self._forward: Callable[..., Any] = torch.compile(self.eager, dynamic=False)
        self._chosen: dict[bool, Callable[..., Any]] = {}  # by whether a gradient is recorded

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        tensors = [value for value in (*inputs, *named.values()) if isinstance(value, Tensor)]
        if not tensors or not tensors[0].ndim or not len(tensors[0]):
            return self.eager(*inputs, **named)
        rows = len(tensors[0])
        gradient = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
        if gradient not in self._chosen:
            self._chosen[gradient] = self._faster(rows, inputs, named, gradient)
        if self._chosen[gradient] is self.eager:
            return self.eager(*inputs, **named)
        inputs, named = _padded((inputs, named), rows)
        return tree_map(lambda value: _first(value, rows), self._forward(*inputs, **named))

    def _faster(self, rows: int, inputs: Any, named: Any, gradient: bool) -> Callable[..., Any]:
        """The compiled forward pass, or the eager one where that is faster or nothing can be compiled."""
        name = type(self.network).__name__
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _GRAPHS)
        inputs, named = _padded(tree_map(_detached, (inputs, named)), rows)
        try:
            _seconds(self._forward, inputs, named, gradient)  # compiles
            pairs = [
                [_seconds(way, inputs, named, gradient) for way in (self.eager, self._forward)] for _ in range(TRIALS)
            ]
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # no compiler, or a network that cannot be traced
            first = str(error).strip().splitlines()[:1]
            warnings.warn(f"compile: {name} runs eagerly; it cannot be compiled here ({first})", stacklevel=2)
            return self.eager
        eager, compiled = (min(seconds) for seconds in zip(*pairs, strict=True))
        if eager < SLOWEST * compiled:
            what = "with a gradient " if gradient else ""
            warnings.warn(
                f"compile: {name} runs eagerly {what}here; compiled it has {eager / compiled:.2f} of the eager speed",
                stacklevel=2,
            )
            return self.eager
        return self._forward

    def __deepcopy__(self, memo: dict[int, Any]) -> "Compiled":
        return Compiled(copy.deepcopy(self.network, memo))


def _padded(values: Any, rows: int) -> Any:
    """The tensors of ``rows`` rows, padded to a power of two with copies of their first row."""
    size = max(LEAST_ROWS, 1 << (rows - 1).bit_length())

    def pad(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.ndim or len(value) != rows or size == rows:
            return value
        return torch.cat((value, value[:1].detach().expand(size - rows, *value.shape[1:])))

    return tree_map(pad, values)


def _first(value: Any, rows: int) -> Any:
    return value[:rows] if isinstance(value, Tensor) and value.ndim else value


def _detached(value: Any) -> Any:
    return value.detach().requires_grad_(value.requires_grad) if isinstance(value, Tensor) else value


def _seconds(forward: Callable[..., Any], inputs: Any, named: Any, gradient: bool) -> float:
    """Seconds of one forward pass, with ``gradient`` of a backward pass as well."""
    leaves = [value for value in tree_leaves((inputs, named)) if isinstance(value, Tensor)]
    device = leaves[0].device
    _synchronise(device)
    start = time.perf_counter()
    outputs = [value for value in tree_leaves(forward(*inputs, **named)) if isinstance(value, Tensor)]
    if gradient:
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        torch.autograd.grad([value for value in outputs if value.requires_grad], wanted, outputs, allow_unused=True)
    _synchronise(device)
    return time.perf_counter() - start


def _synchronise(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
