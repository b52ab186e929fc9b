"""What a fixed certification procedure would answer, foreseen from the first of its own samples: for cost studies."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from scipy.stats import binom, hypergeom, norm
from torch import Tensor

from common.noise import Noise
from common.records.rows import ABSTAIN
from common.robustness.certification.sequential import check_targets, ladder, needed_count
from common.robustness.certification.smoothing import Certificate, Smoothing, check_rows
from common.robustness.classifiers import Classifier, deployed, unpadded
from common.units import check_integer


@dataclass(frozen=True)
class Foresight(Certificate):
    """A `Certificate` that ``procedure`` samples would give, foreseen from ``samples``.

    ``undecided``: the targets about which the limit of samples left a doubt. ``evaluations``: network evaluations that
    the procedure would take, if the classifier says what one sample takes.
    """

    procedure: int = 0
    undecided: tuple[float, ...] = ()
    evaluations: int | None = None


@dataclass(frozen=True)
class Foreseen(Smoothing):
    """The verdicts of `Smoothing` with the same n0, n, alpha about radii ``targets``, from as few samples as they take.

    For the cost of a certification procedure to be compared with another's, its answers must be known, on the same
    images; at 10,000 samples of 126 nodes and 10 classes that is 12.7 million network evaluations an image. But its
    verdict about a radius r is whether at least k* of the n samples agree, k* the first count whose Clopper-Pearson
    bound reaches Phi(r / sigma). The n samples are exchangeable and the first m are a subset of them, so that if
    exactly K of all agree, the number among the first m is hypergeometric, whatever the classifier. With k seen,

        "certified" is certain up to ``error`` once   P(Hypergeometric(n, k* - 1, m) >= k) <= error / J,
        "not certified" once                          P(Hypergeometric(n, k*, m) <= k)     <= error / J,

    J the number of looks (after ``first`` samples, then ``growth`` times as many, up to ``limit``). What is open at the
    limit goes by k / m >= k* / n and is listed as ``undecided``: reports give the share with all of them failing and
    with all of them holding. A target near what n samples can reach takes nearly all of them. Sample i is that of
    `Smoothing`, and the class is the leading one, which n0 samples would choose with an error below ``error``; or the
    image's label where that is known, as certified accuracy asks about no other: an image that the procedure would
    certify as another class abstains here, and is told sooner.

    This is for studies of cost: a verdict that is almost surely the procedure's is not itself a certificate, and the
    time saved here is no merit of the procedure. The radius is the largest target that is certified.
    Raises ``ValueError`` as `Smoothing` does, and for targets that n samples cannot reach, or so small that n0 samples
    might choose another class.
    """

    targets: Sequence[float] = (0.25,)
    first: int = 8
    growth: float = 1.5
    limit: int | None = None
    error: float = 1e-3
    labelled: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_targets(self.targets, zero=False)
        check_integer("first, the samples of the first look,", self.first, 1)
        check_integer("limit", self.most, self.first)
        if self.most > self.n or not 1 < self.growth < math.inf:
            raise ValueError(f"looks need 1 <= first <= limit <= n and growth > 1; got {self.first}, {self.limit}")
        if not 0 < self.error < 0.5:
            raise ValueError(f"error, the chance of a wrong verdict, must be in (0, 0.5); got {self.error}")
        if self.counts_needed[-1] > self.n:
            raise ValueError(f"{self.n} samples cannot certify {self.targets[-1]:g} at sigma {self.level:g}; raise n")
        chance = float(binom.cdf(self.n0 // 2, self.n0, self.counts_needed[0] / self.n))
        if chance > self.error:
            raise ValueError(
                f"at the target {self.targets[0]:g} n0 = {self.n0} samples might choose another class (chance "
                f"{chance:.2g}, error {self.error:g}): drop this target, or raise n0"
            )

    @property
    def most(self) -> int:
        """The largest number of samples that are drawn."""
        return self.n if self.limit is None else self.limit

    @property
    def looks(self) -> list[int]:
        """Numbers of samples after which the verdicts are looked for."""
        return ladder(self.first, self.growth, self.most)

    @property
    def counts_needed(self) -> list[int]:
        """k* of each target: how many of n samples must agree; n + 1 where that is not enough."""
        return [needed_count(self.level, radius, self.n, self.alpha) for radius in self.targets]

    def certify(
        self, classifier: Classifier, image: Tensor, noise: Noise, label: Tensor | None = None
    ) -> list[Certificate]:
        """One verdict per image (B,C,H,W), about ``label`` (B,) or the leading class."""
        check_rows(image, noise)
        noise = noise.stream("estimate")
        counts = torch.zeros(len(image), self.num_classes, dtype=torch.int64, device=image.device)
        spent, active, before = [0] * len(image), list(range(len(image))), 0
        with deployed(classifier), torch.no_grad(), torch.autocast(image.device.type, enabled=False):
            for size in self.looks:
                rows = torch.tensor(active, dtype=torch.int64, device=image.device)
                counts[rows] += self.counts(classifier, image[rows], noise.rows(rows), size - before, start=before)
                for row in active:
                    spent[row] = size
                asked = counts.argmax(1) if label is None else label
                agreed = counts.gather(1, asked[:, None]).squeeze(1).tolist()
                active = [row for row in active if None in self._verdicts(agreed[row], size)]
                before = size
                if not active:
                    break
        each = getattr(unpadded(classifier), "evaluations", None)
        rows_of = zip(asked.tolist(), agreed, spent, strict=True)
        return [self._foresight(*row, None if each is None else int(each)) for row in rows_of]

    def _verdicts(self, count: int, size: int) -> list[bool | None]:
        """Per target whether all n samples will certify it; None while that is open."""
        error = self.error / len(self.looks)
        return [_verdict(count, size, self.n, needed, error) for needed in self.counts_needed]

    def _foresight(self, asked: int, count: int, size: int, each: int | None) -> Foresight:
        verdicts = self._verdicts(count, size)
        pairs = zip(verdicts, self.counts_needed, strict=True)
        certain = [count * self.n >= needed * size if verdict is None else verdict for verdict, needed in pairs]
        radius = max((r for r, yes in zip(self.targets, certain, strict=True) if yes), default=0.0)
        p_lower = float(norm.cdf(radius / self.level)) if radius else 0.0
        procedure = self.n0 + self.n
        undecided = tuple(r for r, verdict in zip(self.targets, verdicts, strict=True) if verdict is None)
        return Foresight(
            asked if radius else ABSTAIN, radius, p_lower, size, count,
            procedure, undecided, None if each is None else procedure * each,
        )  # fmt: skip


@lru_cache(maxsize=2**16)
def _verdict(count: int, size: int, n: int, needed: int, error: float) -> bool | None:
    if count >= needed or size - count > n - needed:
        return count >= needed
    if float(hypergeom.sf(count - 1, n, needed - 1, size)) <= error:
        return True
    return False if float(hypergeom.cdf(count, n, needed, size)) <= error else None
