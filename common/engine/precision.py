"""Precisions of networks, and the processors that compute them natively."""

from typing import Literal

import torch

Precision = Literal["32", "bf16", "16"]

_BF16_UNITS = ("avx512_bf16", "amx_bf16", "avx10_2", "bf16")  # x86, and the last one of Arm


def has_bf16_units() -> bool:
    """True if bfloat16 is computed natively: by the GPU if there is one, else by the CPU's vector or matrix units.

    Without them PyTorch emulates bfloat16, on a CPU at a small fraction of the speed of float32.
    """
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(bool(capabilities.get(unit)) for unit in _BF16_UNITS)
