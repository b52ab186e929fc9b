"""Terms of a plan: the predicted cost of one part of a test."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev

from common.experiments.planning.measuring import Cost

NOISE = 0.05
"""Least relative half-width of an interval in seconds: two runs of the same work on one machine differ by as much."""


@dataclass(frozen=True)
class Term:
    """Predicted cost of one part of a test.

    Args:
        name: of the evaluator or check.
        images: that it sees.
        cost: of all of them.
        low, high: 95 % interval in seconds; of an attack that may stop early and was not measured, its least and
            largest cost, the latter of which is the prediction.
        basis: what the prediction rests on, for the table.
        shares: relative costs of images that were measured one by one, for the division among devices.
        exact: True if ``evaluations`` are counted, not estimated.
    """

    name: str
    images: int
    cost: Cost
    low: float
    high: float
    basis: str
    shares: Sequence[float] = field(default=(1.0,), repr=False)
    exact: bool = False


def around(name: str, images: int, cost: Cost, width: float, basis: str, **more: object) -> Term:
    """A term with the interval ``cost`` (1 ± width), at least `NOISE` wide."""
    width = max(NOISE, width)
    low, high = cost.seconds * max(0.0, 1 - width), cost.seconds * (1 + width)
    return Term(name, images, cost, low, high, basis, **more)  # type: ignore[arg-type]


def relative_error(values: Sequence[float], population: int) -> float:
    """Two standard errors of the mean of a sample, relative to it, without replacement from a ``population``.

    1, the mean itself, for a single value of several.
    """
    if len(values) >= population:
        return 0.0
    mean = fmean(values) if values else 0.0
    if len(values) < 2 or not mean:
        return 1.0
    return 2 * stdev(values) / mean * math.sqrt((1 - len(values) / population) / len(values))
