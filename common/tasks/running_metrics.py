"""Running accuracies for the progress bar and loggers, summed over ranks under DDP.

Published numbers come from records alone (``common.records.summary``).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from common.records.reading import read_table
from common.records.schema import CertifiedRecord, PredictionRecord, Record
from common.records.summary import RADIUS_STEP, is_certified, main_metric, summarise
from common.records.table import Table


def final_accuracies(records: str | Path) -> dict[str, Tensor]:
    """By evaluator the `main_metric` of a records directory: accuracy of one query, or certified at radius 0.25."""
    table = read_table(Path(records))[1]
    scored = Table([*table.select(PredictionRecord), *table.select(CertifiedRecord)])
    return {known.source.title: torch.tensor(known.metrics[main_metric(known)][0]) for known in summarise(scored)}


class _Share(Metric):
    """hits / n over all records of all ranks; NaN before the first."""

    full_state_update = False
    higher_is_better = True
    hits: Tensor
    n: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("hits", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("n", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, records: Sequence[Record]) -> None:
        """Add records of one evaluator."""
        self.hits += sum(self.hit(record) for record in records)
        self.n += len(records)

    def hit(self, record: Record) -> float:
        """Contribution of one record, in [0,1]."""
        raise NotImplementedError

    def compute(self) -> Tensor:
        """Share so far, () float32."""
        return self.hits / self.n


class RobustAccuracy(_Share):
    """Accuracy of clean or attacked records: ``"mean"`` over draws (Avg), or ``"worst"``, all correct (Wor@K)."""

    def __init__(self, over_draws: str = "mean", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if over_draws not in ("mean", "worst"):
            raise ValueError(f"over_draws must be 'mean' or 'worst'; got {over_draws!r}")
        self.over_draws = over_draws

    def hit(self, record: Record) -> float:
        """Share of correct draws, or 1 if all are correct."""
        if not isinstance(record, PredictionRecord):
            raise ValueError(f"RobustAccuracy needs records with predictions; got {type(record).__name__}")
        correct = record.correct
        return sum(correct) / len(correct) if self.over_draws == "mean" else float(all(correct))


class CertifiedAccuracy(_Share):
    """Share of certified records with the right class and a radius of at least ``radius`` (L2, pixels)."""

    def __init__(self, radius: float = RADIUS_STEP, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if radius < 0:
            raise ValueError(f"radius must be at least 0, in pixel units; got {radius}")
        self.radius = radius

    def hit(self, record: Record) -> float:
        """1 if certified at the radius, else 0."""
        if not isinstance(record, CertifiedRecord):
            raise ValueError(f"CertifiedAccuracy needs records with a radius; got {type(record).__name__}")
        return float(is_certified(record, self.radius))


def running_accuracy(certified: bool) -> Metric:
    """Accuracy of this rank alone: a collective would deadlock, since ranks have unequal numbers of batches."""
    return CertifiedAccuracy(sync_on_compute=False) if certified else RobustAccuracy(sync_on_compute=False)
