"""Summaries of records: accuracies and certified accuracies with exact 95 % intervals."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from common.checks.settings import check_count, check_mapping, check_part
from common.records.intervals import Share, share
from common.records.schema import (
    ABSTAIN,
    AttackedRecord,
    CertifiedRecord,
    ClaimedRecord,
    PredictionRecord,
    Record,
    Source,
)

RADIUS_STEP = 0.25  # grid of radii, in pixel units, as the literature's tables have it


@dataclass(frozen=True)
class Summary:
    """Metrics of one evaluation on ``n`` images: ``metrics[name] = (value, low, high)``, exact 95 % intervals.

    Accuracies (K draws per image):

    - ``Avg``: share of correct draws; the accuracy of a single query.
    - ``first draw``: share of images whose first draw is correct (only if K > 1).
    - ``Wor@K``: share of images with all K draws correct (only if K > 1): robust to an attacker with K submissions.
    - ``MV@K``: share of images whose most frequent prediction is correct, ties to the lowest class (only if K > 1).
    - ``clean Avg``, ``clean Wor@K``, ``clean MV@K``: the same of the clean images, with as many queries.

    Certificates: ``certified@r``, share of images with the right class and a certified radius >= r (pixels, L2);
    ``abstained``; and ``samples``, whose triple is mean, smallest and largest.
    """

    source: Source
    n: int
    metrics: dict[str, Share]

    def __post_init__(self) -> None:
        check_part("source", self.source, Source)
        check_count("n", self.n, 0)
        check_mapping("metrics", self.metrics)

    @property
    def evaluator(self) -> str:
        """Name of the evaluator."""
        return self.source.evaluator


def main_metric(summary: Summary) -> str:
    """Metric that one number of an evaluation stands for: ``Avg``, of certificates the share at the radius 0.25."""
    return "Avg" if "Avg" in summary.metrics else f"certified@{RADIUS_STEP:g}"


def summarise(records: Iterable[Record]) -> list[Summary]:
    """One `Summary` per evaluation, in the order of names. Raises ``ValueError`` for rows without a score."""
    groups = groupby(sorted(records, key=lambda record: record.key), key=lambda record: record.source)
    return [summary(source, list(rows)) for source, rows in groups]


def summary(source: Source, rows: Sequence[Record]) -> Summary:
    """`Summary` of the rows of one evaluation."""
    certificates = [row for row in rows if isinstance(row, CertifiedRecord)]
    if len(certificates) == len(rows):
        return Summary(source, len(rows), _certified(certificates))
    decisions = [row for row in rows if isinstance(row, PredictionRecord)]
    if len(decisions) < len(rows):
        raise ValueError(f"records of {source.evaluator!r} hold neither predictions nor certificates alone")
    metrics = _accuracies(source.evaluator, [(row.predictions, row.label) for row in decisions])
    attacked = [row for row in decisions if isinstance(row, AttackedRecord)]
    if len(attacked) == len(rows):
        clean = _accuracies(source.evaluator, [(row.clean_predictions, row.label) for row in attacked])
        metrics |= {f"clean {name}": value for name, value in clean.items() if name != "first draw"}
    return Summary(source, len(rows), metrics)


def average(rows: Sequence[PredictionRecord]) -> Share:
    """Mean over images of the share of correct draws, with its interval."""
    return share(math.fsum(correct_share(row.predictions, row.label) for row in rows), len(rows))


def correct_share(predictions: Sequence[int], label: int) -> float:
    """Share of correct draws on one image."""
    return sum(prediction == label for prediction in predictions) / len(predictions)


def certified_share(rows: Sequence[CertifiedRecord], radius: float) -> Share:
    """Certified accuracy at a radius (pixels, L2) with its interval."""
    return share(sum(is_certified(row, radius) for row in rows), len(rows))


def is_certified(row: CertifiedRecord, radius: float) -> bool:
    """True for the right class at a radius (pixels, L2) of at least ``radius``; claims certify nothing."""
    return not isinstance(row, ClaimedRecord) and row.correct and row.radius >= radius


def radius_grid(rows: Sequence[CertifiedRecord]) -> list[float]:
    """0, 0.25, 0.5 … up to the largest radius of the rows, and at least to 1."""
    largest = max(1.0, *(row.radius for row in rows))
    return [RADIUS_STEP * step for step in range(int(largest / RADIUS_STEP) + 1)]


def _accuracies(evaluator: str, rows: Sequence[tuple[Sequence[int], int]]) -> dict[str, Share]:
    draws, n = len(rows[0][0]), len(rows)
    if not draws or any(len(predictions) != draws for predictions, _ in rows):
        counts = sorted({len(predictions) for predictions, _ in rows})
        raise ValueError(f"records of {evaluator!r} must have equally many draws, at least one; got {counts}")
    correct = [[prediction == label for prediction in predictions] for predictions, label in rows]
    metrics = {"Avg": share(sum(map(sum, correct)) / draws, n)}
    if draws > 1:
        majority = [max(sorted(set(predictions)), key=list(predictions).count) == label for predictions, label in rows]
        metrics["first draw"] = share(sum(draw[0] for draw in correct), n)
        metrics[f"Wor@{draws}"] = share(sum(map(all, correct)), n)
        metrics[f"MV@{draws}"] = share(sum(majority), n)
    return metrics


def _certified(rows: Sequence[CertifiedRecord]) -> dict[str, Share]:
    metrics = {f"certified@{radius:g}": certified_share(rows, radius) for radius in radius_grid(rows)}
    metrics["abstained"] = share(sum(row.prediction == ABSTAIN for row in rows), len(rows))
    samples = [row.samples for row in rows]
    metrics["samples"] = (sum(samples) / len(samples), min(samples), max(samples))
    return metrics
