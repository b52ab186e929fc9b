"""Summaries of records: accuracies and certified accuracies with exact 95 % intervals."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import numpy as np

from common.checks.settings import check_count, check_mapping, check_part
from common.records.column_rows import Rows
from common.records.columns import Lists, Values
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
from common.records.table import Table

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
    parts = Table.of(records).parts
    for rows, other in pairwise(parts):
        if rows.source == other.source:
            raise ValueError(f"records of {rows.source.evaluator!r} must be of one kind; got several")
    return [summary(rows.source, rows) for rows in parts]


def summary(source: Source, rows: Sequence[Record]) -> Summary:
    """`Summary` of the rows of one evaluation, which are of one kind."""
    table = Rows.of(rows)
    if issubclass(table.kind, CertifiedRecord):
        return Summary(source, len(table), _certified(cast(Rows[CertifiedRecord], table)))
    if not issubclass(table.kind, PredictionRecord):
        raise ValueError(f"records of {source.evaluator!r} hold neither predictions nor certificates")
    metrics = accuracies(source.evaluator, table.lists("predictions"), table.label)
    if issubclass(table.kind, AttackedRecord):
        clean = accuracies(source.evaluator, table.lists("clean_predictions"), table.label)
        metrics |= {f"clean {name}": value for name, value in clean.items() if name != "first draw"}
    return Summary(source, len(table), metrics)


def average(rows: Sequence[PredictionRecord], predictions: str = "predictions") -> Share:
    """Mean over images of the share of correct draws, with its interval; of the field ``predictions``."""
    table = Rows.of(rows)
    return share(math.fsum(correct_shares(table.lists(predictions), table.label).tolist()), len(table))


def correct_draws(predictions: Lists, label: Values) -> Values:
    """Correctness of each draw, one for each entry of ``predictions.flat``."""
    correct: Values = predictions.flat == np.repeat(label, predictions.counts)
    return correct


def correct_shares(predictions: Lists, label: Values) -> Values:
    """Share of correct draws on each image (n,)."""
    shares: Values = predictions.totals(correct_draws(predictions, label).astype(np.int64)) / predictions.counts
    return shares


def certified_share(rows: Sequence[CertifiedRecord], radius: float) -> Share:
    """Certified accuracy at a radius (pixels, L2) with its interval."""
    table = Rows.of(rows)
    return share(int(certified(table, radius).sum()), len(table))


def certified(rows: Rows[CertifiedRecord], radius: float) -> Values:
    """Mask (n,): the right class at a radius (pixels, L2) of at least ``radius``; claims certify nothing."""
    right: Values = (rows.array("prediction") == rows.label) & (rows.array("radius") >= radius)
    return right & (not issubclass(rows.kind, ClaimedRecord))


def is_certified(row: CertifiedRecord, radius: float) -> bool:
    """True for the right class at a radius (pixels, L2) of at least ``radius``; claims certify nothing."""
    return not isinstance(row, ClaimedRecord) and row.correct and row.radius >= radius


def radius_grid(*parts: Sequence[CertifiedRecord]) -> list[float]:
    """0, 0.25, 0.5 … up to the largest radius of the rows, and at least to 1."""
    largest = max(1.0, *(float(Rows.of(rows).array("radius").max()) for rows in parts))
    return [RADIUS_STEP * step for step in range(int(largest / RADIUS_STEP) + 1)]


def accuracies(evaluator: str, predictions: Lists, label: Values) -> dict[str, Share]:
    """Metrics of the decisions on each image, see `Summary`."""
    draws, n = predictions.width or 0, len(predictions)
    if not draws:
        counts = sorted(set(predictions.lengths.tolist()))
        raise ValueError(f"records of {evaluator!r} must have equally many draws, at least one; got {counts}")
    correct = predictions.matrix == label[:, None]
    metrics = {"Avg": share(int(correct.sum()) / draws, n)}
    if draws > 1:
        metrics["first draw"] = share(int(correct[:, 0].sum()), n)
        metrics[f"Wor@{draws}"] = share(int(correct.all(1).sum()), n)
        metrics[f"MV@{draws}"] = share(int(_majority_correct(predictions.matrix, label, correct.sum(1)).sum()), n)
    return metrics


def _majority_correct(predictions: Values, label: Values, correct: Values) -> Values:
    """Mask (n,): the most frequent class is the label; it is where more than half of the draws are ``correct``."""
    right: Values = 2 * correct > predictions.shape[1]
    unsure = np.flatnonzero(~right & (correct > 0))
    right[unsure] = majority(predictions[unsure]) == label[unsure]
    return right


def majority(predictions: Values) -> Values:
    """Most frequent class of each row of (n, draws) predictions, ties to the lowest class."""
    ordered = np.sort(predictions, axis=1)
    places = np.arange(ordered.shape[1])
    starts = np.where(np.diff(ordered, axis=1, prepend=-1) != 0, places, 0)
    runs = places - np.maximum.accumulate(starts, axis=1)  # equal classes before each place
    most: Values = np.take_along_axis(ordered, runs.argmax(1)[:, None], axis=1)[:, 0]
    return most


def _certified(rows: Rows[CertifiedRecord]) -> dict[str, Share]:
    n, samples = len(rows), rows.array("samples")
    metrics = {f"certified@{radius:g}": certified_share(rows, radius) for radius in radius_grid(rows)}
    metrics["abstained"] = share(int((rows.array("prediction") == ABSTAIN).sum()), n)
    metrics["samples"] = (int(samples.sum()) / n, int(samples.min()), int(samples.max()))
    return metrics
