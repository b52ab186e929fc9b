"""Division of a test among devices that draw its images from one list, whose costs are unequal."""

import heapq
from collections.abc import Sequence

from common.experiments.planning.terms import Term


def image_seconds(terms: Sequence[Term]) -> list[float]:
    """Predicted seconds of each image: measured shares, repeated over the images that were not measured."""
    seconds = [0.0] * max((term.images for term in terms), default=0)
    for term in terms:
        shares = [max(1e-9, share) for share in term.shares]
        given = [shares[position % len(shares)] for position in range(term.images)]
        scale = term.cost.seconds / sum(given) if given else 0.0
        for position, share in enumerate(given):
            seconds[position] += share * scale
    return seconds


def divided(seconds: Sequence[float], devices: int, shares: Sequence[int]) -> float:
    """Time until the last of ``devices`` has finished, each of which takes the next share of images when it is free.

    ``shares``: their numbers of images, in order.
    """
    free, begin = [0.0] * devices, 0
    for size in shares:
        heapq.heappush(free, heapq.heappop(free) + sum(seconds[begin : begin + size]))
        begin += size
    return max(free)
