"""Bytes and hashes of tensors and arrays, whatever their layout."""

import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

FEW = 16  # values of a tensor that a description lists, instead of their hash


def weights_hash(module: nn.Module) -> str:
    """sha256 over names, types, shapes and values of a module's parameters and persistent buffers, in name order.

    Names are those before ``torch.compile``.
    """
    digest = hashlib.sha256()
    named = {name.replace("_orig_mod.", ""): value for name, value in module.state_dict().items()}
    for name, value in sorted(named.items()):
        if isinstance(value, Tensor):  # extra state is described with the other attributes
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
    return plain | {"sha256": hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()}


def _listed(values: list[Any]) -> list[Any]:
    """Numbers that JSON has as they are, others as text."""
    return [value if isinstance(value, bool | int | str) else str(value) for value in values]


def checksums(module: nn.Module) -> dict[str, int]:
    """Sum of the bits of every parameter and persistent floating-point buffer: much cheaper than `weights_hash`."""
    own = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    sums = {name: _bit_sum(value) for name, value in own.items() if value.is_floating_point() and value.numel()}
    if not sums:
        return {}
    device = next(iter(sums.values())).device
    return dict(zip(sums, torch.stack([total.to(device) for total in sums.values()]).tolist(), strict=True))


_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _bit_sum(value: Tensor) -> Tensor:
    dense = value.detach() if value.layout is torch.strided else value.detach().to_dense()
    return dense.view(_INTEGERS[dense.element_size()]).sum(dtype=torch.int64)
