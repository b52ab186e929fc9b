"""Evaluators with their records: which images are still to be evaluated, and what identifies the run."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import nn

from common.data.datasets import LabelledImages
from common.data.image_data import ImageData
from common.naming.public_names import public_name
from common.records.fingerprint import NOT_IDENTIFYING, identify, settings
from common.records.schema import Source
from common.records.store import Records
from common.robustness.evaluation.batches import Batch
from common.robustness.evaluation.evaluator import Evaluator


@dataclass(frozen=True)
class RecordedSuite:
    """Evaluators and the directory of their records.

    ``done[source]``: indices of the images that had a record of this evaluation when the directory was opened.
    ``first``: indices of the test's first images, in order, as many as the largest ``limit`` of an evaluator.
    """

    evaluators: Sequence[Evaluator]
    records: Records
    done: Mapping[Source, set[int]]
    first: Sequence[int]

    @classmethod
    def open(
        cls, path: str | Path, evaluators: Sequence[Evaluator], classifier: nn.Module, trainer: L.Trainer
    ) -> "RecordedSuite":
        """Open this rank's part of the directory. Raises ``ValueError`` if it holds records of other settings."""
        parts: dict[str, Any] = {"classifier": classifier, "evaluators": list(evaluators)}
        if (data := trainer.datamodule) is not None:  # type: ignore[attr-defined]
            parts["data"] = data_settings(data)
        records = Records(path, *identify(parts), rank=trainer.global_rank)
        done = {evaluator.source: records.done(evaluator.source) for evaluator in evaluators}
        images = dataset_of(trainer)
        count = max((evaluator.limit or 0 for evaluator in evaluators), default=0)
        first = [int(images[position][2]) for position in range(min(count, len(images)))]
        return cls(evaluators, records, done, first)

    def pending(self, evaluator: Evaluator, batch: Batch) -> Batch | None:
        """The images of ``batch`` within the evaluator's limit and without a record; None if there are none."""
        done, limit = self.done[evaluator.source], evaluator.limit
        if not done and limit is None:
            return batch
        wanted = None if limit is None else set(self.first[:limit])
        indices = batch[2].tolist()
        rows = [row for row, index in enumerate(indices) if index not in done and (wanted is None or index in wanted)]
        return (batch[0][rows], batch[1][rows], batch[2][rows]) if rows else None


def dataset_of(trainer: L.Trainer) -> LabelledImages | Sequence[Any]:
    """The data set that is tested; empty where the loader has none."""
    loader = trainer.test_dataloaders
    return getattr(loader[0] if isinstance(loader, list) else loader, "dataset", [])


def first_batch(trainer: L.Trainer, count: int, device: torch.device) -> Batch | None:
    """The first ``count`` test images as one batch, on every rank the same; None of an empty data set."""
    images = dataset_of(trainer)
    examples = [images[position] for position in range(min(count, len(images)))]
    if not examples:
        return None
    image = torch.stack([image for image, _, _ in examples]).to(device)
    label, index = (torch.tensor([int(example[k]) for example in examples], device=device) for k in (1, 2))
    return image, label, index


def data_settings(data: L.LightningDataModule) -> dict[str, Any]:
    """The settings of a data module that decide the images: its `identity`, or its constructor's arguments.

    Arguments are read from attributes of the same names, else from the hyper-parameters that the module saved.
    """
    if isinstance(data, ImageData):
        arguments = data.identity()
    else:
        names = [name for name in inspect.signature(type(data)).parameters if name not in NOT_IDENTIFYING]
        arguments = {name: getattr(data, name, data.hparams.get(name)) for name in names}
    return {"class": public_name(type(data)), **{name: settings(value) for name, value in arguments.items()}}
