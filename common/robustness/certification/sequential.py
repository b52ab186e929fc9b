"""Randomised smoothing with as many samples as an image needs."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from scipy.stats import norm
from torch import Tensor

from common.noise import Noise
from common.records.rows import DIGITS, rounded_down
from common.robustness.certification.smoothing import Certificate, Smoothing, clopper_pearson_lower
from common.robustness.classifiers import Classifier
from common.units import check_integer


@dataclass(frozen=True)
class Sequential(Smoothing):
    """CERTIFY in stages: an image is done once the question it was sampled for is answered.

    After n_1 < n_2 < ... < n_J = n samples (``first``, then ``growth`` times as many each, all of them counted) the
    class chosen by n0 samples has agreed k_j times, and ``p_j`` is its one-sided Clopper-Pearson bound at confidence
    1 - alpha / J. All J bounds hold at once with probability at least 1 - alpha, whatever decides when to stop, so
    the largest so far certifies

        radius = sigma Phi^-1(max_j p_j).

    ``targets`` are the radii (L2, pixels) that are asked about. An image stops when the largest is certified, or when
    the next one, for which k* of all n samples would have to agree, cannot be: not even if all further samples agreed,
    or because the true probability is, at confidence 1 - ``futility`` at each look, below k* / n. The first look is
    at the n0 samples and the first target: an image that they give no hope takes no more, and abstains. Ask for the
    target 0 as well if a class alone is of use. Giving up early costs certificates, never soundness, and mostly those
    that nearly all n samples would just have given:

        futility    samples at probability 0.7, 0.82, 0.84    certified at 0.86, 0.87, 0.9
        0.001       86, 1,402, 6,375                          92.3, 99.9, 100 %
        0.01        49, 785, 3,839                            90.9, 99.0, 99.9 %
        0.05        23, 396, 1,993                            83.3, 94.6, 99.3 %

    (r = sigma, n0 = 32, n = 10,000, alpha = 0.001, first = 60, growth = 1.6; 2,000 simulated images each.) A single
    target answers one question at a small price; all radii of a curve cost more.

    Certified accuracy asks about the label's class alone. ``labelled`` is for it: an image whose n0 samples choose
    another class takes no more and abstains, so that none are spent on proving a mistake. Certificates of the right
    class are the same ones; `certify` needs the labels then, and an evaluator hands them over.

    Sample i is the same as in `Smoothing` with the same noise, so the two can be compared image by image.
    Raises ``ValueError`` as `Smoothing` does, and for targets that n samples cannot reach or of more than six digits.
    Sources: Cohen et al. (arXiv 1902.02918) for the bound; a union bound over fixed stages.
    """

    targets: Sequence[float] = (0.25,)
    first: int = 100
    growth: float = 2.0
    futility: float = 0.01
    labelled: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_targets(self.targets, zero=True)
        check_integer("first, the samples of the first stage,", self.first, 1)
        if self.first > self.n or not 1 < self.growth < math.inf:
            raise ValueError(f"stages need 1 <= first <= n = {self.n} and growth > 1; got {self.first}, {self.growth}")
        if not 0 <= self.futility < 0.5:
            raise ValueError(f"futility, an error level of giving up, must be in [0, 0.5); got {self.futility}")
        if needed_count(self.level, self.targets[-1], self.n, self._level) > self.n:
            reach = self.level * float(norm.ppf(clopper_pearson_lower(self.n, self.n, self._level)))
            raise ValueError(
                f"{self.n} samples at sigma {self.level:g} certify at most {reach:.4g}; got the target "
                f"{self.targets[-1]:g}. Raise n or sigma"
            )

    @property
    def stages(self) -> list[int]:
        """n_1 < ... < n_J = n."""
        return ladder(self.first, self.growth, self.n)

    @property
    def _level(self) -> float:
        return self.alpha / len(self.stages)

    def certify(
        self, classifier: Classifier, image: Tensor, noise: Noise, label: Tensor | None = None
    ) -> list[Certificate]:
        """One certificate per image (B,C,H,W), from one row of noise each; ``label`` (B,) if ``labelled``."""
        if self.labelled != (label is not None):
            raise ValueError(f"labels are for labelled=True, and it needs them; got labelled={self.labelled}, {label}")
        if label is not None and label.shape != (len(image),):
            raise ValueError(f"one label per image: {len(image)} images, labels of shape {tuple(label.shape)}")
        return self._certify(classifier, image, noise, label)

    def _estimate(
        self, classifier: Classifier, image: Tensor, noise: Noise, chosen: Tensor, votes: Tensor
    ) -> list[Certificate]:
        """As `Smoothing`'s; of votes below 0 nothing is asked."""
        agreed, best = [0] * len(image), [0.0] * len(image)
        spent = [0] * len(image)
        least = needed_count(self.level, self.targets[0], self.n, self._level)
        hopeful = [count >= 0 and self._hopeful(count, self.n0, least) for count in votes.tolist()]
        active = [row for row, hope in enumerate(hopeful) if hope]
        before = 0
        for size in self.stages:
            if not active:
                break
            rows = torch.tensor(active, dtype=torch.int64, device=image.device)
            counts = self.counts(classifier, image[rows], noise.rows(rows), size - before, start=before)
            found = counts.gather(1, chosen[rows, None]).squeeze(1).tolist()
            for row, count in zip(active, found, strict=True):
                agreed[row], spent[row] = agreed[row] + count, size
                best[row] = max(best[row], clopper_pearson_lower(agreed[row], size, self._level))
            active = [row for row in active if self._goes_on(agreed[row], size, best[row])]
            before = size
        rows_of = zip(chosen.tolist(), best, agreed, spent, strict=True)
        return [self.certificate(*row) for row in rows_of]

    def _goes_on(self, count: int, size: int, p_lower: float) -> bool:
        """Whether the next target that is not certified yet is still worth sampling for."""
        radius = next((r for r in self.targets if probability(self.level, r) > p_lower), None)
        if radius is None or size == self.n:
            return False
        agreeing = needed_count(self.level, radius, self.n, self._level)
        return count + self.n - size >= agreeing and self._hopeful(count, size, agreeing)

    def _hopeful(self, count: int, size: int, agreeing: int) -> bool:
        """Whether ``count`` of ``size`` samples leave it likely enough that ``agreeing`` of n do."""
        return not self.futility or 1.0 - clopper_pearson_lower(size - count, size, self.futility) >= agreeing / self.n


def check_targets(targets: Sequence[float], zero: bool) -> None:
    """``ValueError`` unless ``targets`` are finite radii, ascending, of `DIGITS` digits at most.

    The first may be 0 where ``zero`` says so.
    """
    if not isinstance(targets, list | tuple):
        raise ValueError(f"targets must be radii, a list even of one; got {targets!r}")
    known = targets and all(map(math.isfinite, targets)) and list(targets) == sorted(set(targets))
    if known and (long := [radius for radius in targets if rounded_down(radius) != radius]):
        raise ValueError(f"targets may have {DIGITS} digits, as records hold no more; got {long}")
    if not known or targets[0] < 0 or (targets[0] == 0 and not zero):
        raise ValueError(f"targets must be radii {'>=' if zero else '>'} 0 (pixels), ascending; got {list(targets)}")


def ladder(first: int, growth: float, last: int) -> list[int]:
    """``first``, then ``growth`` times as many each, rounded up, and at the end ``last``."""
    sizes = [first]
    while sizes[-1] < last:
        sizes.append(min(last, math.ceil(sizes[-1] * growth)))
    return sizes


@lru_cache
def probability(sigma: float, radius: float) -> float:
    """Phi(radius / sigma), what the bound must reach to certify ``radius``; above 1/2 for any certificate at all."""
    return max(float(norm.cdf(radius / sigma)), 0.5 + 1e-12)


@lru_cache
def needed_count(sigma: float, radius: float, n: int, alpha: float) -> int:
    """The least k whose bound `clopper_pearson_lower` reaches `probability`; n + 1 if there is none."""
    return bisect_left(  # the bound grows with k
        range(n + 1), probability(sigma, radius), key=lambda k: clopper_pearson_lower(k, n, alpha)
    )
