"""Memory budget of recorded gradients, and the memory that is free on a device."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Literal

import torch

from common.checks.settings import check_count
from common.engine.allocation import held_bytes

Budget = int | Literal["auto"]

SHARE = {"cuda": 0.7, "cpu": 0.5}
"""Share of the free memory that "auto" takes, by the type of the device."""

UNKNOWN = 2**31
"""Free memory, in bytes, of a device that does not tell."""

_BUDGET: ContextVar[tuple[Budget, int]] = ContextVar("gradient_memory", default=(0, 1))


@contextmanager
def gradient_memory(budget: Budget, processes: int = 1) -> Iterator[None]:
    """Context manager: ``budget`` bytes, or "auto", for the graphs that a purification keeps (``Checkpoint``).

    ``processes`` share what is free on a CPU, if no variable of the launcher tells.
    It changes the speed alone. Outside of such a context the budget is 0: every step is recomputed.
    """
    token = _BUDGET.set((check_budget("memory", budget), processes))
    try:
        yield
    finally:
        _BUDGET.reset(token)


def check_budget(name: str, budget: Budget) -> Budget:
    """The budget. Raises ``ValueError`` unless it is "auto" or a number of bytes >= 0."""
    if not (isinstance(budget, str) and budget == "auto"):
        check_count(name, budget, 0, note='in bytes, or "auto"; 0 recomputes every step')
    return budget


def budget_in_bytes(device: torch.device, budget: Budget | None = None) -> int:
    """``budget``, or that of the context if it is None; "auto" is a share of what is free on the device now."""
    set_budget, processes = _BUDGET.get()
    chosen = set_budget if budget is None else budget
    return int(SHARE.get(device.type, 0.5) * free_bytes(device, processes)) if chosen == "auto" else chosen


def free_bytes(device: torch.device, processes: int = 1) -> int:
    """Free memory of a device, in bytes.

    CUDA: of the device and of PyTorch's cache. CPU: of the machine and of the control group (container, SLURM job) of
    this process, whichever is less, divided by the number of processes of this job on the machine, and what the process
    has freed and still holds.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    if device.type != "cpu":
        return UNKNOWN
    return min(_of_machine(), _of_group()) // max(processes, _processes()) + held_bytes()


def is_out_of_memory(error: RuntimeError) -> bool:
    """True for an error of an allocation on a GPU or a CPU."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def release_memory() -> None:
    """Give the memory of dropped graphs back, outside of the ``except`` whose traceback holds them."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _processes() -> int:
    number = os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("SLURM_NTASKS_PER_NODE") or "1"
    return int(number) if number.isdigit() else 1


def _of_machine() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return UNKNOWN
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    return 1024 * int(fields.get("MemAvailable", f"{UNKNOWN // 1024} kB").split()[0])


def _of_group() -> int:
    """Memory left under the limits of the process's control groups, versions 1 and 2, and of those around them."""
    least = 2**62
    try:
        groups = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    except OSError:
        return least
    for _, controllers, path in groups:
        if controllers and "memory" not in controllers.split(","):
            continue
        root = Path("/sys/fs/cgroup/memory" if controllers else "/sys/fs/cgroup")
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        folder = root / path.lstrip("/")
        for group in (folder, *folder.parents):
            limit, used = (_number(group / name) for name in names)
            if limit is not None and used is not None:
                least = min(least, max(0, limit - used))
            if group == root:
                break
    return least


def _number(file: Path) -> int | None:
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None  # "max" is no limit
