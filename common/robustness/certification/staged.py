"""Sampling in stages, for certifiers that stop early: stage sizes, running class counts, target radii."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from common.checks.settings import check_not_negative, check_sequence
from common.noise import Noise
from common.records.rounding import DIGITS, rounded_down
from common.robustness.certification.smoothing import Smoothing
from common.robustness.classifiers import Classifier


def stage_sizes(first: int, growth: float, last: int) -> list[int]:
    """Numbers of samples: ``first``, then each ``growth`` times the one before, rounded up, and finally ``last``."""
    sizes = [first]
    while sizes[-1] < last:
        sizes.append(min(last, math.ceil(sizes[-1] * growth)))
    return sizes


def check_targets(targets: Sequence[float], zero: bool) -> None:
    """Raise ``ValueError`` unless ``targets`` are finite ascending radii of at most `DIGITS` digits.

    ``zero``: the first may be 0.
    """
    check_sequence("targets", targets, check_not_negative, note="Write [r] for one radius")
    ascending = list(targets) == sorted(set(targets))
    if ascending and (long := [radius for radius in targets if rounded_down(radius) != radius]):
        raise ValueError(f"targets may have {DIGITS} digits, as records hold no more; got {long}")
    if not ascending or targets[0] < 0 or (targets[0] == 0 and not zero):
        raise ValueError(f"targets must be radii {'>=' if zero else '>'} 0 (pixels), ascending; got {list(targets)}")


class StagedCounts:
    """Class counts of B images, each sampled until the caller stops it.

    ``counts`` (B,K) int64, ``samples`` (B,) so far, ``active``: the images that are still sampled.
    """

    def __init__(self, smoothing: Smoothing, classifier: Classifier, image: Tensor, noise: Noise) -> None:
        self.smoothing, self.classifier, self.image, self.noise = smoothing, classifier, image, noise
        self.counts = torch.zeros(len(image), smoothing.num_classes, dtype=torch.int64, device=image.device)
        self.samples, self.active = [0] * len(image), list(range(len(image)))
        self._size = 0

    def extend(self, size: int) -> None:
        """Draw further samples of the active images, up to ``size`` in total."""
        rows = torch.tensor(self.active, dtype=torch.int64, device=self.image.device)
        image, noise = self.image[rows], self.noise.rows(rows)
        self.counts[rows] += self.smoothing.counts(self.classifier, image, noise, size - self._size, start=self._size)
        for row in self.active:
            self.samples[row] = size
        self._size = size

    def of_classes(self, classes: Tensor) -> list[int]:
        """Counts of the given ``classes`` (B,), one per image."""
        counts: list[int] = self.counts.gather(1, classes[:, None]).squeeze(1).tolist()
        return counts
