"""Bytes and hashes of tensors and arrays, whatever their layout."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

FEW = 16  # values of a tensor that a description lists, instead of their hash


def weights_hash(module: nn.Module) -> str:
    """sha256 over names, types, shapes and values of a module's parameters and persistent buffers, in name order.

    Names are those before ``torch.compile``.
    """
    return tensors_hash({name.replace("_orig_mod.", ""): value for name, value in saved_tensors(module).items()})


def saved_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The tensors of a state dict: parameters and buffers themselves, where the module's own ``state_dict`` allows it.

    Extra state is described with the other attributes.
    """
    try:
        state = module.state_dict(keep_vars=True)
    except TypeError:  # a method of the module's own, without this argument
        state = module.state_dict()
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def weights_of(module: nn.Module, recurse: bool = True) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name, also those that the state dict leaves out; ``recurse`` into parts."""
    parameters, buffers = module.named_parameters(recurse=recurse), module.named_buffers(recurse=recurse)
    found = {**dict(parameters), **dict(buffers)}
    for name, inner in module.named_modules() if recurse else [("", module)]:
        for buffer in inner._non_persistent_buffers_set:
            found.pop(f"{name}.{buffer}".lstrip("."), None)
    return found


def storage_of(tensor: Tensor) -> tuple[Any, ...]:
    """Key of the values of a tensor in memory, the same for the detached tensor of a state dict."""
    try:
        return tensor.data_ptr(), tensor.shape, tensor.dtype
    except (RuntimeError, NotImplementedError):  # a layout without one storage
        return (id(tensor),)


def tensors_hash(named: Mapping[str, Tensor]) -> str:
    """sha256 over names, types, shapes and values, in name order."""
    digest = hashlib.sha256()
    for name, value in sorted(named.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(tensor_bytes(value))
    return digest.hexdigest()


def tensor_bytes(tensor: Tensor) -> bytes:
    """The values of a tensor of any type, layout and strides, in row-major order."""
    dense = (tensor.detach() if tensor.layout is torch.strided else tensor.detach().to_dense()).cpu()
    flat = dense.resolve_conj().resolve_neg().reshape(-1)
    if flat.stride() != (1,):  # a single value that was expanded keeps its stride 0
        flat = flat.clone(memory_format=torch.contiguous_format)
    return flat.view(torch.uint8).numpy().tobytes()


def described_tensor(tensor: Tensor) -> dict[str, Any]:
    """Type, shape, and the values of a small tensor or else their sha256."""
    plain: dict[str, Any] = {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape)}
    if tensor.numel() <= FEW and not tensor.is_quantized:
        dense = tensor.detach() if tensor.layout is torch.strided else tensor.detach().to_dense()
        return plain | {"values": _listed(dense.flatten().tolist())}
    if tensor.is_quantized:
        plain["dequantized"] = described_tensor(tensor.dequantize())
    raw = tensor.int_repr() if tensor.is_quantized else tensor
    return plain | {"sha256": hashlib.sha256(tensor_bytes(raw)).hexdigest()}


def described_array(array: np.ndarray[Any, Any]) -> dict[str, Any]:
    """The same of an array of numbers or texts."""
    plain: dict[str, Any] = {"dtype": str(array.dtype), "shape": list(array.shape)}
    if array.size <= FEW:
        return plain | {"values": _listed(array.flatten().tolist())}
    if isinstance(array, np.ma.MaskedArray):
        plain["mask"] = described_array(np.ma.getmaskarray(array))
        array = np.ma.getdata(array)
    return plain | {"sha256": hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()}


def _listed(values: list[Any]) -> list[Any]:
    """Numbers that JSON has as they are, others as text."""
    return [value if isinstance(value, bool | int | str) else str(value) for value in values]
