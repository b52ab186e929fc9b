"""Precisions of networks, and the processors that compute them natively."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal

import torch

from common.engine.switch import Switch

Precision = Literal["auto", "32", "tf32", "bf16", "16"]

HALF = {"bf16": torch.bfloat16, "16": torch.float16}
"""Data types of automatic mixed precision, by the name of the precision."""

_BF16_UNITS = ("avx512_bf16", "amx_bf16", "avx10_2", "bf16")  # x86, and the last one of Arm
_FP16_UNITS = ("avx512_fp16", "amx_fp16", "avx10_2", "fp16")
_EXACT = Switch()


def has_bf16_units(device: torch.device | str | None = None) -> bool:
    """True if bfloat16 is computed natively by the device; None: by the GPU if there is one, else by the CPU.

    Without units for it PyTorch emulates bfloat16, on a CPU at a small fraction of the speed of float32.
    """
    kind = ("cuda" if torch.cuda.is_available() else "cpu") if device is None else torch.device(device).type
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return _cpu_has(_BF16_UNITS)


def _cpu_has(units: Sequence[str]) -> bool:
    """True if this CPU has any of the units."""
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(bool(capabilities.get(unit)) for unit in units)


def resolved(precision: Precision, device: torch.device) -> Precision:
    """The precision on a device: "auto" is "bf16" where it is native, else "32"; "tf32" is "32" without CUDA.

    Warns of a half precision that is emulated.
    """
    if precision == "auto":
        return "bf16" if has_bf16_units(device) else "32"
    if precision == "tf32" and device.type != "cuda":
        return "32"
    if lacks := shortcoming(precision, device):
        warnings.warn(f'precision {precision}: {lacks}. Use precision: "32", or auto', stacklevel=2)
    return precision


def shortcoming(precision: Precision, device: torch.device) -> str:
    """The units that a device lacks for a precision, and the consequence; "" if it has them."""
    this = f"this {device.type.upper()} has no units for"
    if precision == "bf16" and not has_bf16_units(device):
        return f"{this} bfloat16 and emulates it, many times slower than float32"
    if precision == "16" and device.type == "cpu" and not _cpu_has(_FP16_UNITS):
        return f"{this} float16 and emulates it, many times slower than float32"
    if precision == "tf32" and not (device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)):
        return f"{this} TF32 and computes float32, in which the last digits of records differ"
    return ""


def exact_precision() -> AbstractContextManager[None]:
    """Context manager: networks under an engine compute in the precision of their input, as in a gradient check."""
    return _EXACT.turned_on()


def is_exact() -> bool:
    """True inside `exact_precision`."""
    return _EXACT.is_on


@contextmanager
def float32_products(precision: Precision) -> Iterator[None]:
    """Context manager: float32 matrix products and convolutions on CUDA, in TF32 for "tf32", else exact (IEEE).

    PyTorch has two sets of names for it and refuses to read the older one where the newer one was set. It is set by
    the older names, which keep both readable, unless the program has used the newer ones.
    """
    matmul: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    parts = (matmul, cudnn.conv, cudnn.rnn)
    before, older = [part.fp32_precision for part in parts], _older_names()
    try:
        if older is None:
            for part in parts:
                part.fp32_precision = "tf32" if precision == "tf32" else "ieee"
        else:
            torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
            cudnn.allow_tf32 = precision == "tf32"
        yield
    finally:
        if older is not None:
            products, cudnn.allow_tf32 = older
            torch.set_float32_matmul_precision(products)
        for part, value in zip(parts, before, strict=True):
            part.fp32_precision = value


def _older_names() -> tuple[str, bool] | None:
    """The precision of products and ``allow_tf32`` of cuDNN; None where they cannot be read."""
    try:
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    except RuntimeError:
        return None
