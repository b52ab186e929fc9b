"""Floating-point operations of pieces, and the peak of a device in a precision."""

import time
from collections.abc import Mapping, Sequence

import torch
from torch.utils.flop_counter import FlopCounterMode

from common.experiments.benchmarks.timing import Piece, synchronise

TERA = 1e12
PEAKS: dict[str, dict[str, float]] = {  # dense, as the maker states them, in 10^12 operations a second
    "H200": {"bf16": 989, "16": 989, "tf32": 494, "32": 67},
    "H100 PCIe": {"bf16": 756, "16": 756, "tf32": 378, "32": 51},
    "H100": {"bf16": 989, "16": 989, "tf32": 494, "32": 67},
    "A100": {"bf16": 312, "16": 312, "tf32": 156, "32": 19.5},
    "L40S": {"bf16": 362, "16": 362, "tf32": 183, "32": 91.6},
    "L4": {"bf16": 121, "16": 121, "tf32": 60, "32": 30.3},
    "RTX 4090": {"bf16": 165, "16": 165, "tf32": 82.6, "32": 82.6},
    "V100": {"16": 125, "32": 15.7},
    "T4": {"16": 65, "32": 8.1},
}
MATRIX = 8192  # side of the matrices of a measured peak


def peak(device: torch.device, precision: str) -> tuple[float, str]:
    """Operations a second that a GPU can reach, and where the number is from: the maker's, or a large matmul's."""
    name = torch.cuda.get_device_name(device)
    for model, peaks in PEAKS.items():
        if f" {model}" in f" {name}" and precision in peaks:
            return peaks[precision] * TERA, f"stated for {model}"
    return measured_peak(device, precision), "of a large matmul"


def measured_peak(device: torch.device, precision: str, side: int = MATRIX, repeat: int = 10) -> float:
    """Operations a second of matrix products of ``side`` x ``side``, the best of ``repeat``."""
    dtype = {"bf16": torch.bfloat16, "16": torch.float16}.get(precision, torch.float32)
    left = torch.rand(side, side, device=device).to(dtype)
    best = float("inf")
    for _ in range(repeat + 1):
        synchronise(device)
        begin = time.perf_counter()
        left @ left
        synchronise(device)
        best = min(best, time.perf_counter() - begin)
    return 2 * side**3 / best


def operations(bare: Sequence[Piece], pieces: Sequence[Piece]) -> Mapping[str, float]:
    """Floating-point operations of each piece: counted for the ``bare`` ones, which the others contain."""
    counts: dict[str, float] = {}
    for piece in bare:
        with FlopCounterMode(display=False) as counter:
            piece.work()
        counts[piece.name] = float(counter.get_total_flops())
    return counts | {
        piece.name: sum(times * counts[name] for name, times in piece.contains.items()) for piece in pieces
    }
