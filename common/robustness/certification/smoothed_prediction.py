"""Prediction of a smoothed classifier: the class of most samples, or abstention (Cohen et al., arXiv 1902.02918)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.special import betainc
from torch import Tensor

from common.checks.settings import check_count, check_fraction
from common.records.schema import ABSTAIN


@dataclass(frozen=True)
class SmoothedPrediction:
    """PREDICT for one image.

    Args:
        prediction: the class, or `ABSTAIN`. With probability at least 1 - alpha it is one of the two: the smoothed
            classifier's class, or abstention.
        p_value: of the test that the two leading classes are equally likely.
        count: samples of the leading class.
        second: samples of the second.
        samples: all samples.
    """

    prediction: int
    p_value: float
    count: int
    second: int
    samples: int

    def __post_init__(self) -> None:
        check_count("prediction", self.prediction, ABSTAIN)
        check_fraction("p_value", self.p_value)
        for name in ("count", "second", "samples"):
            check_count(name, getattr(self, name), 0)


def decide_by_counts(counts: Tensor, alpha: float) -> list[SmoothedPrediction]:
    """PREDICT from class counts (B,K): the leading class if its test against the second has a p-value of at most alpha.

    Section 3.2.2 and Appendix C of arXiv 1902.02918 (Proposition 2).
    """
    values, classes = counts.to(torch.int64).topk(2, dim=1)
    totals: list[int] = counts.sum(1).tolist()
    return [
        _decision(classes_of, counts_of, total, alpha)
        for classes_of, counts_of, total in zip(classes.tolist(), values.tolist(), totals, strict=True)
    ]


def _decision(classes: Sequence[int], counts: Sequence[int], samples: int, alpha: float) -> SmoothedPrediction:
    p_value = equal_chance_p_value(counts[0], counts[0] + counts[1])
    return SmoothedPrediction(classes[0] if p_value <= alpha else ABSTAIN, p_value, counts[0], counts[1], samples)


def equal_chance_p_value(count: int, n: int) -> float:
    """Two-sided p-value of ``count`` successes in ``n`` trials of chance 1/2, exact.

    The distribution is symmetric: ``min(1, 2 P(Binomial(n, 1/2) >= max(count, n - count)))``, and
    P(Binomial(n, p) >= k) = I_p(k, n - k + 1). Raises ``ValueError`` unless 0 <= count <= n.
    """
    if not 0 <= count <= n:
        raise ValueError(f"counts must satisfy 0 <= count <= n; got {count} of {n}")
    k = max(count, n - count)
    return 1.0 if 2 * k == n else min(1.0, 2 * float(betainc(k, n - k + 1, 0.5)))
