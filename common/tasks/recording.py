"""Evaluators with their records: which images are still to be evaluated, and what identifies the run."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset, TensorDataset, default_collate, default_convert

from common.data.datasets import LabelledImages
from common.data.image_data import ImageData
from common.data.shared_loader import SharedLoader
from common.naming.terminal import Terminal
from common.records.attributes import attributes_of_class, class_name
from common.records.fingerprint import identity, settings
from common.records.notes import Notes, keeping, remove_stale
from common.records.rows import UNDETERMINED
from common.records.schema import Record, Source
from common.records.source_code import code_checksum
from common.records.store import Records
from common.robustness.evaluation.batches import Batch
from common.robustness.evaluation.evaluator import Evaluator
from common.tasks.parts import Part, lock_part
from common.tasks.resuming import check_indices
from common.tasks.weights_in_use import WeightsInUse

_OF_LOADERS = {*vars(DataLoader(TensorDataset(torch.zeros(1))))}


@dataclass(frozen=True)
class RecordedSuite:
    """Evaluators and the directory of their records.

    ``done[source]``: indices of the images that had a record of this evaluation when the directory was opened.
    ``first``: indices of the test's first images, in order, as many as the largest ``limit`` of an evaluator.
    ``weights``: checksums of the weights and other state that identify the records. ``code``: that of the code, for
    notes, which no row vouches for.
    """

    evaluators: Sequence[Evaluator]
    records: Records
    done: Mapping[Source, set[int]]
    first: Sequence[int]
    weights: WeightsInUse = field(repr=False)
    code: str = ""

    @classmethod
    def open(
        cls,
        path: str | Path,
        evaluators: Sequence[Evaluator],
        classifier: nn.Module,
        trainer: L.Trainer,
        session: str,
        engine: Mapping[str, str] = MappingProxyType({}),
    ) -> "RecordedSuite":
        """Open this rank's part of the directory. Raises ``ValueError`` if it holds records of another run.

        Rows of the same ``session`` were written by other ranks of this run. ``engine`` is what identifies the engine.
        """
        parts = {"classifier": classifier, "evaluators": list(evaluators)}
        run = identity({**parts, "data": tested_data(trainer), **({"engine": dict(engine)} if engine else {})})
        records = Records(path, run.fingerprint, run.description, trainer.global_rank, session)
        images = dataset_of(trainer)
        check_indices(records.resumed, images, records.path)
        done = {evaluator.source: records.done(evaluator.source) for evaluator in evaluators}
        count = max((evaluator.limit or 0 for evaluator in evaluators), default=0)
        first = [int(images[position][2]) for position in range(min(count, len(images)))]
        return cls(
            evaluators, records, done, first, WeightsInUse(parts, run.modules, bool(records.resumed)), code_checksum()
        )

    def lock(self, part: Part) -> None:
        """Lock the directory for this process, which tests ``part`` of the images: `lock_part`, with its errors."""
        try:
            lock_part(self.records.path, part)
        except ValueError:
            self.records.close()
            raise

    def pending(self, evaluator: Evaluator, batch: Batch) -> Batch | None:
        """The images of ``batch`` within the evaluator's limit and without a record; None if there are none."""
        done, limit = self.done[evaluator.source], evaluator.limit
        if not done and limit is None:
            return batch
        wanted = None if limit is None else set(self.first[:limit])
        indices = batch[2].tolist()
        rows = [row for row, index in enumerate(indices) if index not in done and (wanted is None or index in wanted)]
        return (batch[0][rows], batch[1][rows], batch[2][rows]) if rows else None

    def lacks(self, index: int) -> bool:
        """True if an evaluator has no record yet of the image with this index."""
        return any(
            index not in self.done[one.source] and (one.limit is None or index in self.first[: one.limit])
            for one in self.evaluators
        )

    def keeping(self, source: Source, index: Tensor) -> AbstractContextManager[None]:
        """Context manager of an evaluation and its rows: notes on these images outlive a kill, until they have rows.

        Without notes where parts cannot be determined: another start may be of another defence. Those of other code are
        not read.
        """
        if self.records.header.config.get(UNDETERMINED):
            return nullcontext()
        return keeping(
            Notes(self.records.path, f"{self.records.header.fingerprint} {self.code}", source, index.tolist())
        )

    def merge(self) -> None:
        """Merge the records of all ranks, and remove notes that no later start needs."""
        self.records.merge()
        done = {evaluator.source: self.records.done(evaluator.source) for evaluator in self.evaluators}
        first = {evaluator.source: evaluator.limit for evaluator in self.evaluators}

        def lacks(source: Source, index: int) -> bool:
            limit = first[source]
            return index not in done[source] and (limit is None or index in self.first[:limit])

        remove_stale(self.records.path, done, lacks)

    def append(self, rows: Sequence[Record]) -> None:
        """Append rows. Raises ``ValueError`` if weights or attributes are no longer those that were described."""
        self.weights.check()
        self.records.append(rows)

    def complete(self, images: int) -> int:
        """Number of images that all evaluators have a row of, by whichever process, in a test of ``images``."""
        have: dict[Source, set[int]] = {}
        for row in self.records.all():
            have.setdefault(row.source, set()).add(row.index)
        wanted = {one.source: min(one.limit or images, images) for one in self.evaluators}
        most = max(wanted.values(), default=0)  # evaluators with a limit do not count, unless all of them have one
        return min(most, len(set.intersection(*(have.get(one, set()) for one in wanted if wanted[one] == most))))

    @rank_zero_only
    def tell_resumed(self, images: int) -> None:
        """Print how many of the test's ``images`` earlier starts have done, if any."""
        if self.records.resumed:
            found = f"found {self.complete(images)} of {images} images in {self.records.path}; goes on"
            Terminal().print(found, markup=False, soft_wrap=True)

    def warn_of_undetermined(self) -> None:
        """Warn that the test cannot be resumed where a part cannot be determined, and of the remedy."""
        if places := self.records.header.config.get(UNDETERMINED):
            rank_zero_warn(
                f"this test cannot be resumed from {self.records.path}, since parts of it cannot be determined: "
                f"{'; '.join(places[:4])}. Give the part a method identity() that returns what decides its numbers"
            )


def tested_data(trainer: L.Trainer) -> Any:
    """The data module of a test. Where there is none, the data set without the selection of its images, and what the
    loader and subsets of other classes do to the images.
    """
    if (data := trainer.datamodule) is not None:  # type: ignore[attr-defined]
        return data
    images: Any = dataset_of(trainer)
    changing: list[Any] = []
    while isinstance(images, Subset):
        if type(images) is not Subset:
            changing.append(_named(images, {"dataset", "indices"}))
        images = images.dataset
    loader = test_loader(trainer)
    if type(loader) not in (DataLoader, SharedLoader) and isinstance(loader, DataLoader):
        changing.append(_named(loader, _OF_LOADERS))
    if (collate := getattr(loader, "collate_fn", None)) not in (None, default_collate, default_convert):
        changing.append({"collate_fn": collate})
    return [images, *changing] if changing else images


def _named(part: Any, others: set[str]) -> dict[str, Any]:
    """Class and attributes of a part, without the ``others``."""
    held = dict([*attributes_of_class(type(part)), *vars(part).items()])
    kept = {name: value for name, value in held.items() if name not in others and "__" not in name}
    return {"class": class_name(part), **kept}


def test_loader(trainer: L.Trainer) -> Any:
    """The loader of the test images, the first of several."""
    loaders = trainer.test_dataloaders
    return loaders[0] if isinstance(loaders, list) else loaders


def declared_classes(trainer: L.Trainer) -> int | None:
    """Number of classes that the data module declares; None without one, and where it is not known."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    declared = data.declared_classes if isinstance(data, ImageData) else getattr(data, "num_classes", None)
    return declared if isinstance(declared, int) else None


def dataset_of(trainer: L.Trainer) -> LabelledImages | Sequence[Any]:
    """The data set that is tested; empty where the loader has none."""
    return getattr(test_loader(trainer), "dataset", [])


def first_batch(trainer: L.Trainer, count: int, device: torch.device) -> Batch | None:
    """The first ``count`` test images as one batch, on every rank the same; None of an empty data set."""
    images = dataset_of(trainer)
    examples = [images[position] for position in range(min(count, len(images)))]
    return as_batch(examples, device) if examples else None


def as_batch(examples: Sequence[Any], device: torch.device) -> Batch:
    """Examples (image, label, index) as one batch."""
    image = torch.stack([image for image, _, _ in examples]).to(device)
    label, index = (torch.tensor([int(example[k]) for example in examples], device=device) for k in (1, 2))
    return image, label, index


def data_settings(data: L.LightningDataModule) -> dict[str, Any]:
    """Description of a data module: its class, with its `identity` or all that it holds."""
    described: dict[str, Any] = settings(data)
    return described
