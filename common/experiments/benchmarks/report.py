"""Benchmark: all pieces on one subject, timed in one run."""

import platform
from typing import Any

import torch

from common.engine.engine import Engine
from common.experiments.benchmarks.peak import operations, peak
from common.experiments.benchmarks.pieces import around, bare, ours
from common.experiments.benchmarks.subject import Subject
from common.experiments.benchmarks.timing import interleaved

SEPARATE = 1  # round of pieces without a network, of which the start takes seconds


def benchmark(size: str, batch: int, steps: int, engine: Engine, device: torch.device, repeat: int) -> dict[str, Any]:
    """Medians and ratios of all pieces, with the set-up in words; on a GPU each piece's share of the peak."""
    subject = Subject.of(size, batch, engine, device)
    networks, works = bare(subject), ours(subject, steps)
    top, source, counts = None, "", dict[str, float]()
    if device.type == "cuda":
        top, source = peak(device, engine.precision)
        eager = Subject.of(size, batch, Engine(), device)
        counts = dict(operations(bare(eager), works))
    timings = interleaved([*networks, *works], repeat, device)
    unit = timings[0].seconds
    others = interleaved(around(subject), SEPARATE, device, elapsed=True)
    rows = [(one.name, one.seconds, one.to_limit, one.to_network) for one in timings]
    rows += [(one.name, one.seconds, None, one.seconds / unit) for one in others]
    parameters = sum(weight.numel() for weight in subject.denoiser.parameters())
    compiled = ", compiled" if engine.compile else ""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"
    threads = "" if device.type == "cuda" else f", threads: {torch.get_num_threads()}"
    return {
        "setup": f"{parameters / 1e6:.2g} million parameters, {batch} images of 32x32, {steps} steps, "
        f"precision {engine.precision}{compiled}, {name}{threads}; medians of {repeat} rounds",
        "peak": top,
        "peak_from": source,
        "pieces": [
            {
                "name": label,
                "seconds": seconds,
                "to_limit": limit,
                "to_network": ratio,
                "share": counts[label] / seconds / top if top and label in counts else None,
            }
            for label, seconds, limit, ratio in rows
        ],
    }
