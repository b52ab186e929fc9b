"""Measured cost of a piece of a test, stopped where its time is spent."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from common.engine.meter import Meter


@dataclass(frozen=True)
class Cost:
    """``seconds``, network ``evaluations`` as `Meter` counts them, and ``peak_bytes``, the most memory so far."""

    seconds: float = 0.0
    evaluations: float = 0.0
    peak_bytes: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        peak = max(self.peak_bytes, other.peak_bytes)
        return Cost(self.seconds + other.seconds, self.evaluations + other.evaluations, peak)

    def times(self, factor: float) -> "Cost":
        """The cost of ``factor`` times as much work, in the same memory."""
        return Cost(self.seconds * factor, self.evaluations * factor, self.peak_bytes)


class Spent(BaseException):
    """End of a measurement whose time is spent; no part of a test catches it as an error of its own."""


def measure(classifier: nn.Module, work: Callable[[], object], limit: float = math.inf) -> tuple[Cost, bool]:
    """Cost of ``work()``, and True if it ended within ``limit`` seconds.

    What takes longer is left at the next call of a network; the cost is then that of the part done.
    """
    deadline, ended = time.perf_counter() + limit, True

    def stop(rows: int) -> None:
        if time.perf_counter() > deadline:
            raise Spent

    with Meter(classifier, stop) as meter:
        try:
            work()
        except Spent:
            ended = False
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    return Cost(**meter.cost(1)), ended
