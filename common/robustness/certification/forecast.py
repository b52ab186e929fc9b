"""Forecast: the verdicts of a fixed-n smoothing procedure, predicted from a prefix of its samples. For cost studies."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from scipy.stats import binom, hypergeom, norm
from torch import Tensor

from common.checks.settings import check_count, check_number
from common.noise import Noise
from common.records.schema import ABSTAIN
from common.robustness.certification.binomial import needed_count
from common.robustness.certification.certificate import Certificate, check_inputs
from common.robustness.certification.smoothing import Smoothing
from common.robustness.certification.staged import StagedCounts, check_targets, stage_sizes
from common.robustness.classifiers import Classifier, deployed
from common.robustness.padding import unpadded


@dataclass(frozen=True)
class Forecast(Smoothing):
    """Predicted verdicts of `Smoothing` with the same n0, n and alpha on the radii ``targets``.

    A study of certification costs needs the verdicts of a procedure that is too expensive to run: 10,100 samples of 124
    nodes and 10 classes are 12.53 million network evaluations an image. `Smoothing` certifies a radius r if at least k*
    of its n samples agree, k* the smallest count whose Clopper-Pearson bound reaches Phi(r / sigma). The n samples are
    exchangeable: if exactly K of all n agree, the number among the first m is hypergeometric, for any classifier. After
    m samples with k agreements, the verdict is

        "certified"      up to ``error`` once   P(Hypergeometric(n, k* - 1, m) >= k) <= error / J,
        "not certified"  up to ``error`` once   P(Hypergeometric(n, k*, m) <= k)     <= error / J,

    J the number of stages (``first`` samples, then ``growth`` times as many, up to ``limit``). A verdict still open at
    the limit is predicted by k / m >= k* / n and listed as ``undecided``; reports give the share with all of them
    failing and with all of them holding. A target near the largest radius of n samples takes nearly all samples. Sample
    i is that of `Smoothing`. The class is the label where it is given, since certified accuracy counts no other (an
    image certified as another class abstains), else the leading class, which n0 samples select with an error below
    ``error``.

    A predicted verdict is not a certificate, and the samples saved do not lower the cost of certification. The radius
    is the largest target predicted as certified.

    Args:
        targets: radii (L2, pixels), ascending, above 0.
        first: samples of the first stage.
        growth: factor from each stage to the next.
        limit: the most samples drawn; None is n.
        error: the chance of a wrong verdict.

    Raises ``ValueError`` as `Smoothing` does, for targets that n samples cannot reach, and for targets so small that n0
    samples might select another class.
    """

    targets: Sequence[float] = (0.25,)
    first: int = 8
    growth: float = 1.5
    limit: int | None = None
    error: float = 1e-3

    labelled = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_targets(self.targets, zero=False)
        check_count("first, the samples of the first stage,", self.first, 1, self.n)
        check_count("limit, the most samples drawn,", self.max_samples, self.first, self.n)
        check_number("growth", self.growth, above=1)
        check_number("error, the chance of a wrong verdict,", self.error, above=0, below=0.5)
        if self.counts_needed[-1] > self.n:
            raise ValueError(f"{self.n} samples cannot certify {self.targets[-1]:g} at sigma {self.level:g}; raise n")
        chance = float(binom.cdf(self.n0 // 2, self.n0, self.counts_needed[0] / self.n))
        if chance > self.error:
            raise ValueError(
                f"at the target {self.targets[0]:g} n0 = {self.n0} samples might choose another class (chance "
                f"{chance:.2g}, error {self.error:g}): drop this target, or raise n0"
            )

    @property
    def max_samples(self) -> int:
        """The largest number of samples drawn."""
        return self.n if self.limit is None else self.limit

    @property
    def stages(self) -> list[int]:
        """Numbers of samples after which verdicts are predicted."""
        return stage_sizes(self.first, self.growth, self.max_samples)

    @property
    def counts_needed(self) -> list[int]:
        """k* of each target; n + 1 if no count suffices."""
        return [needed_count(self.level, radius, self.n, self.alpha) for radius in self.targets]

    def certify(
        self, classifier: Classifier, image: Tensor, noise: Noise, label: Tensor | None = None
    ) -> list[Certificate]:
        """One predicted verdict per image (B,C,H,W), on ``label`` (B,) or the leading class."""
        check_inputs(image, noise, label, self.num_classes)
        staged = StagedCounts(self, classifier, image, noise.stream("estimate"))
        with deployed(classifier), torch.no_grad(), torch.autocast(image.device.type, enabled=False):
            for size in self.stages:
                staged.extend(size)
                classes = staged.counts.argmax(1) if label is None else label
                agreed = staged.of_classes(classes)
                staged.active = [row for row in staged.active if None in self._verdicts(agreed[row], size)]
                if not staged.active:
                    break
        evaluations = unpadded(classifier).evaluations
        rows = zip(classes.tolist(), agreed, staged.samples, strict=True)
        return [self._predicted(*row, evaluations) for row in rows]

    def _verdicts(self, count: int, size: int) -> list[bool | None]:
        """Verdict per target: True for certified, False for not certified, None while open."""
        error = self.error / len(self.stages)
        return [_verdict(count, size, self.n, needed, error) for needed in self.counts_needed]

    def _predicted(self, prediction: int, count: int, size: int, evaluations: int | None) -> Certificate:
        """The fixed-n procedure's certificate; ``evaluations``: network evaluations per sample."""
        verdicts = self._verdicts(count, size)
        pairs = zip(verdicts, self.counts_needed, strict=True)
        certified = [count * self.n >= needed * size if verdict is None else verdict for verdict, needed in pairs]
        radius = max((r for r, holds in zip(self.targets, certified, strict=True) if holds), default=0.0)
        procedure = self.n0 + self.n
        return Certificate(
            prediction=prediction if radius else ABSTAIN,
            radius=radius,
            p_lower=float(norm.cdf(radius / self.level)) if radius else 0.0,
            samples=size,
            count=count,
            procedure=procedure,
            undecided=tuple(r for r, verdict in zip(self.targets, verdicts, strict=True) if verdict is None),
            evaluations=None if evaluations is None else procedure * evaluations,
        )


@lru_cache(maxsize=2**16)
def _verdict(count: int, size: int, n: int, needed: int, error: float) -> bool | None:
    """Verdict of n samples on a count ``needed``, from ``count`` of the first ``size``; None while open."""
    if count >= needed or size - count > n - needed:
        return count >= needed
    if float(hypergeom.sf(count - 1, n, needed - 1, size)) <= error:
        return True
    return False if float(hypergeom.cdf(count, n, needed, size)) <= error else None
