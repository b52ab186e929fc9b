"""Checks of values on a device that are looked at together: each look makes the host wait for all work in hand."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

Judge = Callable[[list[float]], None]
"""Function of the values of a check, which raises or warns where they are wrong."""

_PENDING: ContextVar[list[tuple[Tensor, Judge]] | None] = ContextVar("pending_checks", default=None)


@contextmanager
def looked_at_once() -> Iterator[None]:
    """Context manager: values checked inside (`check_values`) are looked at when the outermost one ends.

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


def check_values(values: Tensor, judge: Judge) -> None:
    """Judge ``values`` (N,) at once or, inside `looked_at_once`, when it ends."""
    pending = _PENDING.get()
    if pending is None:
        judge(values.tolist())
    else:
        pending.append((values.detach(), judge))


def look() -> None:
    """Judge the values that are pending now, in one wait per device: before what depends on them is written down."""
    pending = _PENDING.get()
    if not pending:
        return
    checks = list(pending)
    pending.clear()
    columns: dict[torch.device, list[Tensor]] = {}
    for values, _ in checks:
        exact = torch.float32 if values.device.type == "mps" else torch.float64  # which mps does not have
        columns.setdefault(values.device, []).append(values.to(exact))
    read = {device: iter(torch.cat(parts).tolist()) for device, parts in columns.items()}
    for values, judge in checks:
        numbers = read[values.device]
        judge([next(numbers) for _ in range(len(values))])
