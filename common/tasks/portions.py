"""Portions of a batch: rows are written image by image, or few by few, where an image costs more than seconds."""

import time
from collections.abc import Iterator

from common.robustness.evaluation.attacked import Attacked
from common.robustness.evaluation.batches import Batch
from common.robustness.evaluation.clean_and_certified import Certified
from common.robustness.evaluation.evaluator import Evaluator
from common.robustness.padding import Padded

SLOW = 3.0  # seconds per image from which a batch is divided
GAIN = 0.9  # a portion of twice the size is kept if an image costs at most this share of what it did before


class Portions:
    """Division of an evaluator's batches. Their rows do not depend on it, up to the rounding of floats.

    The first portion is the ``least`` one that wastes nothing: one image of a certificate, as many as `Padded` computes
    of an attack. While an image costs more than ``SLOW`` seconds, portions double as long as that makes it cheaper.
    Batches are not divided for attacks whose result depends on the batch, and for evaluators of other kinds.
    """

    def __init__(self, evaluator: Evaluator, classifier: Padded) -> None:
        self.size: int | None = None  # of the next portion; None for the whole batch
        if isinstance(evaluator, Certified):
            self.size = 1
        elif isinstance(evaluator, Attacked) and evaluator.attack.by_image:
            self.size = classifier.rows
        self._seconds: dict[int, float] = {}  # per image, by the size of the portion

    def of(self, batch: Batch) -> Iterator[Batch]:
        """Yield the batch in portions; the time until the next one is its cost."""
        begin = 0
        while begin < len(batch[2]):
            rows = slice(begin, None if self.size is None else begin + self.size)
            portion = (batch[0][rows], batch[1][rows], batch[2][rows])
            start = time.monotonic()
            yield portion
            begin += len(portion[2])
            self._learn(len(portion[2]), time.monotonic() - start)

    def _learn(self, images: int, seconds: float) -> None:
        if images != self.size:  # the whole batch, or the rest of one
            return
        cost = self._seconds[images] = seconds / images
        smaller = self._seconds.get(images // 2)
        if cost < SLOW:
            self.size = None
        elif smaller is not None and cost > GAIN * smaller:
            self.size = images // 2
        elif 2 * images not in self._seconds:
            self.size = 2 * images
