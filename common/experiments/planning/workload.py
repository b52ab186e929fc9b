"""Workload: the parts of a test that decide its cost."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from common.engine.memory import Budget
from common.robustness.evaluation.batches import Batch
from common.robustness.evaluation.evaluator import Evaluator
from common.robustness.padding import Padded

SLOW = 3.0
"""Seconds per image from which a test divides its batches into portions."""


@dataclass(frozen=True)
class Workload:
    """A test: its classifier, images and batches.

    Args:
        classifier: as the test evaluates it.
        evaluators: of the test, each with its threat and one seed.
        images: number of test images.
        batch_size: images per batch.
        take: positions in the test -> batch of these images.
        first_portion: images of the portion that an evaluator begins with; None for a whole batch.
        memory: of the graphs that the test keeps for gradients (`Engine`).
    """

    classifier: Padded
    evaluators: Sequence[Evaluator]
    images: int
    batch_size: int
    take: Callable[[Sequence[int]], Batch]
    first_portion: Callable[[Evaluator], int | None]
    memory: Budget = 0

    def count(self, evaluator: Evaluator) -> int:
        """Number of images that an evaluator sees."""
        return min(self.images, evaluator.limit or self.images)

    def portions(self, evaluator: Evaluator, slow: bool) -> Iterator[range]:
        """Positions of the images of each call of an evaluator; ``slow``: an image takes seconds.

        The first portion is small; then come whole batches, or where an image is ``slow`` portions of the same size.
        """
        count, size = self.count(evaluator), self.first_portion(evaluator)
        for start in range(0, count, self.batch_size):
            begin, stop = start, min(start + self.batch_size, count)
            while begin < stop:
                end = stop if size is None else min(begin + size, stop)
                yield range(begin, end)
                begin, size = end, size if slow else None


def spread(count: int) -> list[int]:
    """The positions 0 .. count-1 in an order whose beginnings are spread evenly over all of them."""
    return sorted(range(count), key=lambda position: (position * 0.6180339887498949) % 1.0)
