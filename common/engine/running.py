"""A network's forward pass under an engine: precision, memory order, compilation."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from common.engine.compiled import Compiled
from common.engine.gradient_scale import GradientScale
from common.engine.networks import networks
from common.engine.precision import HALF, Precision, is_exact


class Running:
    """``forward`` of a network in automatic mixed precision, with outputs in the precision of the input.

    Inputs in float64, and all inputs inside `exact_precision`, are computed as they are. ``compiled``: through
    `Compiled`. A deep copy of the network has a ``Running`` of its own. In float16 gradients are scaled inside the
    network (`GradientScale`).
    """

    identifies_nothing = True  # a test names its engine in the fingerprint

    def __init__(self, network: nn.Module, precision: Precision, channels_last: bool, compiled: bool) -> None:
        self.network, self.precision, self.channels_last = network, precision, channels_last
        self.own = vars(network).get("forward")  # a forward pass that the user gave this very network
        self.eager = network.forward
        self.compiled = Compiled(network) if compiled else None
        self._forward = self.compiled or self.eager

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        given = (*inputs, *named.values())
        image = next((value for value in given if isinstance(value, Tensor) and value.is_floating_point()), None)
        if image is None or image.dtype == torch.float64 or is_exact():
            return self.eager(*inputs, **named)
        if self.channels_last:
            inputs, named = tree_map(_channels_last, (inputs, named))
        half = HALF.get(self.precision)
        if half is None:
            return self._forward(*inputs, **named)
        scale = GradientScale.of(half, image, self.network, (inputs, named))
        if scale is not None:
            inputs, named = tree_map(scale.enter, (inputs, named))
        with torch.autocast(image.device.type, dtype=half):
            output = self._forward(*inputs, **named)
        output = tree_map(lambda value: _in(value, image.dtype), output)
        return output if scale is None else scale.leave(output)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Running":
        network = copy.deepcopy(self.network, memo)
        vars(network).pop("forward", None)  # a copy of this object
        if self.own is not None:
            vars(network)["forward"] = copy.deepcopy(self.own, memo)
        other = Running(network, self.precision, self.channels_last, self.compiled is not None)
        if self.compiled is not None and other.compiled is not None:
            other.compiled.take_over(self.compiled)
        return other


def compiled_networks(module: nn.Module) -> dict[str, Compiled]:
    """The compiled forward passes of the networks inside ``module``, by the place of the network."""
    places = {id(part): place for place, part in module.named_modules()}
    found = {}
    for network in networks(module):
        forward = vars(network).get("forward")
        compiled = forward.compiled if isinstance(forward, Running) else forward
        if isinstance(compiled, Compiled):
            found[places[id(network)]] = compiled
    return found


def _channels_last(value: Any) -> Any:
    if isinstance(value, Tensor) and value.ndim == 4:
        return value.contiguous(memory_format=torch.channels_last)
    return value


def _in(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
