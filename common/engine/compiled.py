"""Compiled forward pass of a network: few shapes, not slower than eager, never a failed test."""

import copy
import time
import warnings
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from common.engine.memory import is_out_of_memory

LEAST_ROWS = 16
TRIALS = 3
SLOWEST = 0.95
"""A compiled network stays in use at this fraction of the eager speed or more."""

_GRAPHS = 64  # shapes and modes that PyTorch keeps for one class of network; its default of 8 is soon used up


Choice = dict[str, bool]
"""By mode of evaluation (`FORWARD`, `GRADIENT`): True where the compiled forward pass runs."""
FORWARD, GRADIENT = "forward", "gradient"


class Compiled:
    """``network.forward`` through ``torch.compile``; a deep copy of the network is compiled on its own.

    Shapes are static: a batch is padded to a power of two of rows, at least 16, with copies of its first row, so that
    there are few. For evaluations without and with a gradient, the first call times both ways. Where the compiled one
    reaches less than 0.95 of the eager speed, or cannot be compiled on this machine, the network runs eagerly with a
    warning. A test decides once for all its processes and starts instead (`settle`), since the last bits differ.
    Compiled networks have no second derivatives.
    """

    identifies_nothing = True  # the same numbers but for the last bits; a test names its choice

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.own = vars(network).get("forward")  # a forward pass that the user gave this very network
        self.eager: Callable[..., Any] = self.own or MethodType(type(network).forward, network)
        self._forward: Callable[..., Any] = torch.compile(self.eager, dynamic=False)
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _GRAPHS)
        self.choice: Choice = {}
        self._settled = False

    def settle(self, choice: Choice) -> None:
        """Take a choice that was made elsewhere; evaluations in a mode that it does not name are eager."""
        self.choice, self._settled = dict(choice), True

    def take_over(self, other: "Compiled") -> None:
        """Choose as another one of the same network has, or will have, to."""
        self.choice, self._settled = dict(other.choice), other._settled

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        tensors = [value for value in (*inputs, *named.values()) if isinstance(value, Tensor)]
        if not tensors or not tensors[0].ndim or not len(tensors[0]):
            return self.eager(*inputs, **named)
        rows = len(tensors[0])
        gradient = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
        mode = GRADIENT if gradient else FORWARD
        if mode not in self.choice and not self._settled:
            self.choice[mode] = self._faster(rows, inputs, named, gradient) is self._forward
        if not self.choice.get(mode, False):
            return self.eager(*inputs, **named)
        inputs, named = _padded((inputs, named), rows)
        return tree_map(lambda value: _first(value, rows), self._compiled(inputs, named))

    def _compiled(self, inputs: Any, named: Any) -> Any:
        """The compiled forward pass. Raises ``ValueError`` where another process has chosen it and it fails here."""
        try:
            return self._forward(*inputs, **named)
        except Exception as error:
            if not self._settled or (isinstance(error, RuntimeError) and is_out_of_memory(error)):
                raise
            raise ValueError(
                f"compile: {type(self.network).__name__} runs compiled in this test, as the first process or an "
                f"earlier start decided, but fails so on this machine ({str(error).strip().splitlines()[:1]}). Use "
                "machines of one kind, or compile: false and another directory of records"
            ) from error

    def _faster(self, rows: int, inputs: Any, named: Any, gradient: bool) -> Callable[..., Any]:
        """The compiled forward pass, or the eager one where that is faster or nothing can be compiled."""
        name = type(self.network).__name__
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
        network = copy.deepcopy(self.network, memo)
        vars(network).pop("forward", None)  # a copy of this object
        if self.own is not None:
            vars(network)["forward"] = copy.deepcopy(self.own, memo)
        other = Compiled(network)
        other.take_over(self)
        return other


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
