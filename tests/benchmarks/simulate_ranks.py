"""Share of the time that ranks are busy with a certification, simulated from the costs in its records.

    python -m tests.benchmarks.simulate_ranks RECORDS [--ranks 64] [--images 512]

Costs are the network evaluations of each image, as the records hold them. ``--images`` draws so many of them at
random, with replacement, for larger tests than the recorded one.
"""

import argparse
import heapq
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.records.schema import CertifiedRecord
from common.records.store import Records
from common.robustness.certification.crew import LEAST
from common.tasks.shares import share_sizes


@dataclass(frozen=True)
class Image:
    """Cost of an image, and the smallest piece of it that ranks share."""

    cost: float
    piece: float


def fixed_shares(images: Sequence[Image], ranks: int) -> float:
    """Busy share where rank r owns the images r, r + ranks, …."""
    loads = [sum(image.cost for image in images[rank::ranks]) for rank in range(ranks)]
    return sum(loads) / (ranks * max(loads))


def shared_counter(images: Sequence[Image], ranks: int) -> tuple[float, float]:
    """Busy share where a free rank takes the next images; and where idle ranks help with the last ones, besides."""
    sizes, begin, free = share_sizes(len(images), ranks, 64, 1), 0, [0.0] * ranks
    last: list[tuple[float, Image]] = []  # of each rank: the beginning of the image in hand, and the image
    heapq.heapify(free)
    for size in sizes:
        time = heapq.heappop(free)
        for image in images[begin : begin + size]:
            last.append((time, image))
            time += image.cost
        heapq.heappush(free, time)
        begin += size
    total = sum(image.cost for image in images)
    return total / (ranks * max(free)), total / (ranks * _with_help(last, free, ranks))


def _with_help(begun: Sequence[tuple[float, Image]], free: Sequence[float], ranks: int) -> float:
    """End of the last image if the first idle rank and all after it help with the images in hand.

    Each image's rest is cut into two slices for each rank, but no smaller than its piece; free ranks take the slices.
    """
    idle = min(free)
    loads = [time for time in free if time <= idle]
    slices: list[float] = []
    for start, image in begun:
        end = start + image.cost
        if end <= idle:
            continue
        loads.append(max(idle, start))
        rest = end - max(idle, start)
        size = max(image.piece, rest / (2 * ranks))
        slices += [size] * math.floor(rest / size) + [rest % size]
    loads = sorted(loads)[:ranks] + [idle] * max(0, ranks - len(loads))
    heapq.heapify(loads)
    for piece in sorted(slices, reverse=True):
        heapq.heappush(loads, heapq.heappop(loads) + piece)
    return max(loads)


def table(images: Sequence[Image], ranks: int) -> str:
    """Busy shares of all ways to share the images."""
    ordered, helped = shared_counter(images, ranks)
    dearest, both = shared_counter(sorted(images, key=lambda image: -image.cost), ranks)
    largest = max(image.cost for image in images) / sum(image.cost for image in images)
    return (
        f"{len(images)} images on {ranks} ranks; the dearest is {largest:.1%} of all, 1/{1 / largest:.0f}\n"
        f"fixed shares                          {fixed_shares(images, ranks):6.1%} busy\n"
        f"shared counter, in order              {ordered:6.1%}\n"
        f"shared counter, dearest first         {dearest:6.1%}\n"
        f"in order, idle ranks help             {helped:6.1%}\n"
        f"dearest first, idle ranks help        {both:6.1%}"
    )


def recorded(path: Path) -> list[Image]:
    """Costs of the certified images of a folder. Raises ``ValueError`` if there are none, as in a merged file alone."""
    rows = [row for row in Records.read(path) if isinstance(row, CertifiedRecord)]
    costs = [(row.cost.evaluations, row.samples) for row in rows if row.cost and row.cost.evaluations]
    if not costs:
        raise ValueError(f"{path} has no certificates with costs. Name a folder with the part files of a certification")
    return [Image(cost, cost / max(1, samples) * LEAST) for cost, samples in costs]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("records", type=Path)
    parser.add_argument("--ranks", type=int, default=64)
    parser.add_argument("--images", type=int)
    options = parser.parse_args()
    found = recorded(options.records)
    if options.images:
        found = random.Random(0).choices(found, k=options.images)
    print(table(found, options.ranks))
