"""A user's module: used on any device and in evaluation mode, and afterwards as it was before."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def untouched(module: nn.Module) -> Iterator[None]:
    """Context manager: restore attributes, device, buffers, ``requires_grad`` and gradients of a module and its parts.

    Attributes are bound to what they were; lists and objects that a call changes in place stay changed. Values of
    parameters are not copied: a test refuses a part that writes to them.
    """
    attributes = [(part, dict(vars(part))) for part in module.modules()]
    buffers = [(part, [(name, *_saved(value)) for name, value in part._buffers.items()]) for part in module.modules()]
    parameters = [(one, one.data, one.requires_grad, one.grad) for one in module.parameters()]
    try:
        yield
    finally:
        for part, own in attributes:
            part.__dict__.clear()
            part.__dict__.update(own)
        for part, values in buffers:
            part._buffers.clear()
            part._buffers.update({name: _restored(value, copy) for name, value, copy in values})
        for parameter, data, requires_grad, gradient in parameters:
            parameter.data, parameter.grad = data, gradient
            parameter.requires_grad_(requires_grad)


def _saved(value: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    return value, None if value is None else value.detach().clone()


def _restored(value: Tensor | None, copy: Tensor | None) -> Tensor | None:
    if value is not None and copy is not None:
        with torch.no_grad():
            value.copy_(copy)
    return value


def device_of(module: nn.Module) -> torch.device:
    """Device of a module's first parameter or buffer; the CPU without any."""
    tensors: list[Any] = [*module.parameters(), *module.buffers()][:1]
    return tensors[0].device if tensors else torch.device("cpu")
