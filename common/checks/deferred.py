"""Checks of values on a device that are looked at together: each look makes the host wait for all work in hand."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Judge = Callable[[list[float]], None]
"""Function of the values of a check, which raises or warns where they are wrong."""


@dataclass
class _Check:
    """Values and their judge; on CUDA also a copy on the host, complete when the event is."""

    values: Tensor
    judge: Judge
    copy: Tensor | None = None
    event: Any = None

    def start_copy(self) -> None:
        """Copy the values to the host without a wait."""
        if self.values.device.type == "cuda":
            self.copy = self.values.to("cpu", non_blocking=True)
            cuda: Any = torch.cuda  # whose events have no types
            self.event = cuda.Event()
            self.event.record(cuda.current_stream(self.values.device))

    @property
    def has_arrived(self) -> bool:
        return self.event is not None and bool(self.event.query())


_PENDING: ContextVar[list[_Check] | None] = ContextVar("pending_checks", default=None)


@contextmanager
def looked_at_once() -> Iterator[None]:
    """Context manager: values of a device checked inside (`check_values`) are looked at when the outermost one ends.

    Those of CUDA are copied meanwhile and judged at the first check after they have arrived; those of a CPU, at once.
    They are judged in the order of the checks, so that the first stage that failed is the one that is named. An error
    that a wrong value has led to is raised as the cause of the check's own. Threads inside, as those of a backward pass
    on CUDA, look at their values at once.
    """
    if _PENDING.get() is not None:
        yield
        return
    token = _PENDING.set([])
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        try:
            look()
        except Exception as first:
            raise first from error
        raise
    else:
        look()
    finally:
        _PENDING.reset(token)


@contextmanager
def looked_at_each() -> Iterator[None]:
    """Context manager: values checked inside are looked at at once, in spite of a `looked_at_once` around it."""
    look()
    token = _PENDING.set(None)
    try:
        yield
    finally:
        _PENDING.reset(token)


def check_values(values: Tensor, judge: Judge) -> None:
    """Judge ``values`` (N,) at once or, if a look has to wait, as `looked_at_once` says."""
    pending = _PENDING.get()
    if pending is None or not has_to_wait(values):
        judge(values.tolist())
        return
    check = _Check(values.detach(), judge)
    check.start_copy()
    pending.append(check)
    while pending and pending[0].has_arrived:
        _judge_arrived(pending)


def has_to_wait(values: Tensor) -> bool:
    """True if the host waits for the work of a device when it reads these values."""
    return values.device.type != "cpu"


def _judge_arrived(pending: list[_Check]) -> None:
    """Judge the first check by its copy; if it fails, forget the others, which came after it."""
    first = pending.pop(0)
    try:
        first.judge((first.values if first.copy is None else first.copy).tolist())
    except Exception:
        pending.clear()
        raise


def look() -> None:
    """Judge the values that are pending now, in one wait per device: before what depends on them is written down."""
    pending = _PENDING.get()
    if not pending:
        return
    checks = list(pending)
    pending.clear()
    columns: dict[torch.device, list[Tensor]] = {}
    for check in checks:
        device = check.values.device
        exact = torch.float32 if device.type == "mps" else torch.float64  # which mps does not have
        columns.setdefault(device, []).append(check.values.to(exact))
    read = {device: iter(torch.cat(parts).tolist()) for device, parts in columns.items()}
    for check in checks:
        numbers = read[check.values.device]
        check.judge([next(numbers) for _ in range(len(check.values))])
