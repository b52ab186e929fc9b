"""Cost of an evaluation: network evaluations, time and memory."""

import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from common.checks.settings import check_function, check_optional, check_part
from common.engine.networks import networks


class Spent(NamedTuple):
    """Rows that networks evaluated, and seconds."""

    evaluations: float
    seconds: float


class Meter:
    """Context that counts the rows of a classifier's networks in the forward direction.

    Recomputations in a backward pass count, and so do rows that only pad a batch. Where nothing is a network, as in
    exact denoisers, the innermost modules count. ``listener`` is called with the running count before each call.
    """

    def __init__(self, classifier: nn.Module, listener: Callable[[int], None] | None = None) -> None:
        check_part("classifier", classifier, nn.Module)
        check_optional(check_function, "listener", listener)
        innermost = [module for module in classifier.modules() if not any(module.children())]
        self._networks = {id(network): network for network in networks(classifier) or innermost}
        self._rows, self._listener = 0, listener
        self._earlier = (0.0, 0.0, 0)  # rows, seconds and memory of processes before this one

    def __enter__(self) -> "Meter":
        self._start = time.perf_counter()
        _OPEN.meters.append(self)
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self._hooks = [network.register_forward_pre_hook(self._count) for network in self._networks.values()]
        return self

    def __exit__(self, *exception: object) -> None:
        self.seconds = time.perf_counter() - self._start
        _OPEN.meters.remove(self)
        for hook in self._hooks:
            hook.remove()

    def _count(self, network: nn.Module, inputs: tuple[Any, ...]) -> None:
        if self._listener is not None:
            self._listener(self._rows)
        self._rows += len(inputs[0]) if inputs and isinstance(inputs[0], torch.Tensor) else 1

    def add(self, rows: int) -> None:
        """Count rows that another process evaluated."""
        self._rows += rows

    @property
    def spent(self) -> Spent:
        """The cost so far in this process."""
        return Spent(self._rows, time.perf_counter() - self._start)

    def resume(self, evaluations: float, seconds: float, peak_bytes: int) -> None:
        """Add what an earlier process spent on results that are taken over from it."""
        rows, before, peak = self._earlier
        self._earlier = (rows + evaluations, before + seconds, max(peak, peak_bytes))

    def cost(self, images: int) -> dict[str, Any]:
        """The cost per image, with that of results which an earlier process has left (`resume_cost`).

        ``seconds``; ``evaluations`` of networks; ``peak_bytes``, the most memory that tensors took on a GPU, or that
        the process ever took on a CPU.
        """
        share, (rows, seconds, peak) = 1 / max(1, images), self._earlier
        return {
            "seconds": (self.seconds + seconds) * share,
            "evaluations": (self._rows + rows) * share,
            "peak_bytes": max(peak_bytes(), peak),
        }


class _Open(threading.local):
    """The open meters of a thread, innermost last."""

    def __init__(self) -> None:
        self.meters: list[Meter] = []


_OPEN = _Open()


def credit(rows: int) -> None:
    """Count rows that another process evaluated for this one, in all meters that are open."""
    for meter in _OPEN.meters:
        meter.add(rows)


def resume_cost(evaluations: float, seconds: float, peak_bytes: int) -> None:
    """Add what an earlier process spent on results that are taken over from it, in all meters that are open."""
    for meter in _OPEN.meters:
        meter.resume(evaluations, seconds, peak_bytes)


def spent() -> Spent:
    """Count of the innermost open meter in this process; zeros without one."""
    return _OPEN.meters[-1].spent if _OPEN.meters else Spent(0, 0.0)


def peak_bytes() -> int:
    """The most memory that tensors took on a GPU, or that the process ever took on a CPU; 0 if it is not known."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    try:
        import resource
    except ImportError:  # not a Unix
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
