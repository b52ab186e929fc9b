"""Accuracies that are logged while a run goes on; sums over ranks, so that they are right under DDP.

Published numbers come from records alone (``records.summarise``); these move in a progress bar or a logger.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from common.records.store import Record, is_certified


class _Share(Metric):
    """hits / n over all records seen by all ranks; NaN before the first."""

    full_state_update = False
    higher_is_better = True
    hits: Tensor
    n: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("hits", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("n", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, records: Sequence[Record]) -> None:
        """Adds records of one evaluator."""
        self.hits += sum(self.hit(record) for record in records)
        self.n += len(records)

    def hit(self, record: Record) -> float:
        """What one record adds, in [0,1]."""
        raise NotImplementedError

    def compute(self) -> Tensor:
        """() float32: the share so far."""
        return self.hits / self.n


class RobustAccuracy(_Share):
    """Accuracy of `Clean` or `Attacked` records: ``"mean"`` over draws (Avg), ``"worst"``: all right (Wor@K)."""

    def __init__(self, over_draws: str = "mean", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if over_draws not in ("mean", "worst"):
            raise ValueError(f"over_draws must be 'mean' or 'worst'; got {over_draws!r}")
        self.over_draws = over_draws

    def hit(self, record: Record) -> float:
        """Share of right draws, or whether all are right."""
        correct: list[bool] = record.values["correct"]
        return sum(correct) / len(correct) if self.over_draws == "mean" else float(all(correct))


class CertifiedAccuracy(_Share):
    """Share of `Certified` records with the right class and a radius of at least ``radius`` (L2, pixels)."""

    def __init__(self, radius: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if radius < 0:
            raise ValueError(f"radius must be at least 0, in pixel units; got {radius}")
        self.radius = radius

    def hit(self, record: Record) -> float:
        """1 if certified at the radius, else 0."""
        return float(is_certified(record, self.radius))
