"""Checksums of tensors, on their own device and much cheaper than hashes; they depend on the order of the values."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from common.records.tensors import saved_tensors

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_WIDTH = 1024  # values of a row of the two-dimensional view
_MIX = 0x1E3779B97F4A7C15  # an odd number of 61 bits; products wrap around


def checksums(module: nn.Module) -> dict[str, int]:
    """Checksum of every parameter and buffer of a module's state dict, and of the parameters that it leaves out."""
    return tensor_checksums({**dict(module.named_parameters()), **saved_tensors(module)})


def tensor_checksums(named: Mapping[str, Tensor]) -> dict[str, int]:
    """Checksum of each tensor by name; one transfer from the device for all of them. Empty tensors are left out."""
    sums = {name: _checksum(value.detach()) for name, value in named.items() if value.numel()}
    if not sums:
        return {}
    device = next(iter(sums.values())).device
    return dict(zip(sums, torch.stack([total.to(device) for total in sums.values()]).tolist(), strict=True))


def _checksum(value: Tensor) -> Tensor:
    """Sum of the bits, weighted by row and by column of a view as rows: another order gives another sum."""
    bits = _bits(value)
    whole = bits.numel() // _WIDTH * _WIDTH
    rows, rest = bits[:whole].view(-1, _WIDTH), bits[whole:].to(torch.int64)
    parts = (rows.sum(1, dtype=torch.int64), rows.sum(0, dtype=torch.int64), rest)
    return torch.stack([_weighted(part, place) for place, part in enumerate(parts)]).sum()


def _weighted(values: Tensor, place: int) -> Tensor:
    factor = torch.arange(1, len(values) + 1, device=values.device) * 3 + place
    factor = (factor * _MIX) ^ (factor << 17)
    return (values * (factor | 1)).sum()


def _bits(value: Tensor) -> Tensor:
    """The values of a tensor of any type and layout as one row of integers."""
    raw = value.int_repr() if value.is_quantized else value
    dense = raw if raw.layout is torch.strided else raw.to_dense()
    flat = dense.resolve_conj().resolve_neg().reshape(-1).contiguous()
    if flat.is_complex():
        flat = torch.view_as_real(flat).reshape(-1)
    if flat.stride() != (1,):  # a single value that was expanded keeps its stride 0
        flat = flat.clone(memory_format=torch.contiguous_format)
    return flat.view(_INTEGERS[flat.element_size()])
