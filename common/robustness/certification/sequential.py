"""Sequential smoothing: sampling stops once the target radii are decided."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.stats import norm
from torch import Tensor

from common.checks.settings import check_count, check_flag, check_number
from common.noise import Noise
from common.robustness.certification.binomial import clopper_pearson_lower, needed_count, needed_probability
from common.robustness.certification.certificate import Certificate, check_inputs
from common.robustness.certification.smoothing import Smoothing
from common.robustness.certification.staged import StagedCounts, check_targets, stage_sizes
from common.robustness.classifiers import Classifier, deployed


@dataclass(frozen=True)
class Sequential(Smoothing):
    """CERTIFY in stages: an image stops once its target radii are decided.

    After n_1 < n_2 < ... < n_J = n samples (``first``, then ``growth`` times as many each, cumulative) the class
    selected by n0 samples has agreed k_j times; ``p_j`` is its one-sided Clopper-Pearson bound at confidence
    1 - alpha / J. All J bounds hold together with probability at least 1 - alpha, whatever the stopping rule, so the
    largest so far certifies

        radius = sigma Phi^-1(max_j p_j).

    An image stops when the largest target is certified, or for futility: when the next target, which needs k* of all n
    samples, is out of reach even if all further samples agree, or when the true probability is below k* / n at
    confidence 1 - ``futility`` per stage. The first such check takes the n0 samples and the first target; an image that
    fails it draws no more samples and abstains. Include the target 0 to certify the class alone. Stopping for futility
    costs certificates, never soundness, and mostly those that need nearly all n samples:

        futility    samples at probability 0.7, 0.82, 0.84    certified at 0.86, 0.87, 0.9
        0.001       86, 1,402, 6,375                          92.3, 99.9, 100 %
        0.01        49, 785, 3,839                            90.9, 99.0, 99.9 %
        0.05        23, 396, 1,993                            83.3, 94.6, 99.3 %

    (r = sigma, n0 = 32, n = 10,000, alpha = 0.001, first = 60, growth = 1.6; 2,000 simulated images each.) A single
    target costs little; a curve of radii costs more.

    With ``labelled`` an image whose n0 samples select another class than its label draws no more samples and abstains:
    certified accuracy counts the label's class alone. Certificates of the label's class are unchanged.

    Sample i is that of `Smoothing` with the same noise, so that the two can be compared image by image.

    Args:
        targets: radii (L2, pixels) to decide, ascending.
        first: samples of the first stage.
        growth: factor from each stage to the next.
        futility: error level of the futility stop; 0 for none.
        labelled: certify the label's class alone.

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
        check_count("first, the samples of the first stage,", self.first, 1, self.n)
        check_number("growth", self.growth, above=1)
        check_number("futility, an error level,", self.futility, at_least=0, below=0.5)
        check_flag("labelled", self.labelled)
        if needed_count(self.level, self.targets[-1], self.n, self._alpha_per_stage) > self.n:
            largest = self.level * float(norm.ppf(clopper_pearson_lower(self.n, self.n, self._alpha_per_stage)))
            raise ValueError(
                f"{self.n} samples at sigma {self.level:g} certify at most {largest:.4g}; got the target "
                f"{self.targets[-1]:g}. Raise n or sigma"
            )

    @property
    def stages(self) -> list[int]:
        """n_1 < ... < n_J = n."""
        return stage_sizes(self.first, self.growth, self.n)

    @property
    def _alpha_per_stage(self) -> float:
        return self.alpha / len(self.stages)

    def certify(
        self, classifier: Classifier, image: Tensor, noise: Noise, label: Tensor | None = None
    ) -> list[Certificate]:
        """One certificate per image (B,C,H,W), from one row of noise each; ``label`` (B,) if ``labelled``."""
        check_inputs(image, noise, label, self.num_classes)
        self._check_labels(image, label)
        needed = needed_count(self.level, self.targets[0], self.n, self._alpha_per_stage)
        staged, best = StagedCounts(self, classifier, image, noise.stream("estimate")), [0.0] * len(image)
        with deployed(classifier), torch.no_grad(), torch.autocast(image.device.type, enabled=False):
            most, selected = self.counts(classifier, image, noise.stream("select"), self.n0).max(1)
            votes = (most if label is None else torch.where(selected == label, most, -1)).tolist()
            staged.active = [
                row for row in staged.active if votes[row] >= 0 and self._is_likely(votes[row], self.n0, needed)
            ]
            for size in self.stages:
                if not staged.active:
                    break
                staged.extend(size)
                agreed = staged.of_classes(selected)
                for row in staged.active:
                    best[row] = max(best[row], clopper_pearson_lower(agreed[row], size, self._alpha_per_stage))
                staged.active = [row for row in staged.active if self._continues(agreed[row], size, best[row])]
        rows = zip(selected.tolist(), best, staged.of_classes(selected), staged.samples, strict=True)
        return [self.certificate(*row) for row in rows]

    def _check_labels(self, image: Tensor, label: Tensor | None) -> None:
        if self.labelled != (label is not None):
            raise ValueError(
                f"certify takes labels if labelled=True and only then; got labelled={self.labelled}, label={label}"
            )

    def _continues(self, count: int, size: int, p_lower: float) -> bool:
        """True while the smallest uncertified target is neither certified nor futile."""
        radius = next((r for r in self.targets if needed_probability(self.level, r) > p_lower), None)
        if radius is None or size == self.n:
            return False
        needed = needed_count(self.level, radius, self.n, self._alpha_per_stage)
        return count + self.n - size >= needed and self._is_likely(count, size, needed)

    def _is_likely(self, count: int, size: int, needed: int) -> bool:
        """True unless ``count`` of ``size`` samples reject a probability of ``needed`` / n at level ``futility``.

        The upper Clopper-Pearson bound is one minus the lower bound of the disagreements.
        """
        return not self.futility or 1.0 - clopper_pearson_lower(size - count, size, self.futility) >= needed / self.n
