"""Checks before a test continues earlier records: their images and labels, and a recorded image anew."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Subset

from common.records.column_fields import COSTS
from common.records.column_rows import Rows
from common.records.merging import agree, brief
from common.records.rows import places
from common.records.schema import AttackedRecord, CertifiedRecord, Record, Source
from common.records.store import Records
from common.records.table import Table
from common.robustness.evaluation.attacked import Attacked
from common.robustness.evaluation.batches import Batch
from common.robustness.evaluation.evaluator import Evaluator
from common.robustness.padding import Padded
from common.tasks.engine import EngineOfTest


def check_indices(rows: Iterable[Record], images: Any, path: Path) -> None:
    """Raise ``ValueError`` for a row of an image that the data does not have, or that has another label there.

    Data sets without ``labels`` are not checked.
    """
    labels = _labels(images)
    if labels is None:
        return
    expected = np.append(labels.cpu().numpy(), -1)  # -1 of images that the data does not have
    for part in Table.of(rows).parts:
        wrong = np.flatnonzero(expected[part.image.clip(max=len(labels))] != part.label)
        if len(wrong):
            row = part[int(wrong[0])]
            known = f"it has {int(labels[row.index])}" if row.index < len(labels) else f"are {len(labels)} images"
            row_text = f"image {row.index} with label {row.label}, but in the data {known}: {brief(row)}"
            raise ValueError(
                f"{path} has a row of {row_text}. It was made with other data: write to another directory, or delete "
                f"that one. If this row alone is wrong, delete its line: {places(path, row.key)}."
            )


def recorded_example(records: Records, source: Source, images: Any) -> tuple[Record, Any] | None:
    """An earlier row of a test image, with its example; None if there is none.

    The cheapest of those that tell most: of certificates, first those whose samples disagree, then those with samples
    at all. The first one where nothing is known of costs, or of the images before they are loaded.
    """
    rows = [part for part in records.resumed.parts if part.source == source]
    known = {index: (part, row) for part in rows for row, index in enumerate(part.image.tolist())}
    places: Iterable[int] = range(len(images)) if known else ()
    if (indices := known_indices(images)) is not None:
        ranks = {index: rank for part in rows for index, rank in zip(part.image.tolist(), _ranks(part), strict=True)}
        places = sorted((place for place in places if indices[place] in known), key=lambda one: ranks[indices[one]])[:1]
    for place in places:
        example = images[place]
        if (found := known.get(int(example[2]))) is not None:
            return found[0][found[1]], example
    return None


def _ranks(rows: Rows[Any]) -> list[tuple[int, float]]:
    """Order in which rows are evaluated anew, the smallest first."""
    costs = np.nan_to_num(rows.costs[:, COSTS.index("evaluations")], nan=np.inf)
    told = np.zeros(len(rows), int)
    if issubclass(rows.kind, CertifiedRecord):
        samples, count = rows.array("samples"), rows.array("count")
        told = np.where((count > 0) & (count < samples), 0, np.where(samples > 0, 1, 2))
    return list(zip(told.tolist(), costs.tolist(), strict=True))


def evaluated_again(
    row: Record, evaluator: Evaluator, classifier: Padded, batch: Batch, finished: bool, engine: EngineOfTest
) -> Record:
    """The row of a recorded image evaluated anew, ``batch`` of one, under the ``engine``.

    Only the decisions on the clean image are new for an attack whose result depends on the batch, and for one that
    is ``finished``, since it costs as much as an image of the test.
    """
    if (
        isinstance(row, AttackedRecord)
        and isinstance(evaluator, Attacked)
        and (finished or not evaluator.attack.by_image)
    ):
        (predictions,) = engine.fitted(
            lambda: evaluator.clean_predictions(classifier, batch), evaluator.name, classifier
        )
        again: Record = replace(row, clean_predictions=predictions)
    else:
        (again,) = engine.evaluate(evaluator, classifier, batch)
        if isinstance(row, AttackedRecord) and isinstance(again, AttackedRecord):
            again = replace(again, verified=row.verified)  # set by the test, not by the evaluator
    return again


def check_same(row: Record, again: Record, path: Path) -> None:
    """Raise ``ValueError`` if the image of a ``row`` gives another one ``again``."""
    if not agree(row, again):
        raise ValueError(
            f"{path} was made with other weights, data or code: image {row.index} of {row.evaluator!r} evaluated anew "
            f"gives {brief(again)}, but the record is {brief(row)} ({places(path, row.key)}). Write to another "
            "directory, or delete that one."
        )


def known_indices(images: Any) -> Sequence[int] | None:
    """The index of the image at each position, without loading it; None for data that is not a `Subset` with labels."""
    if isinstance(images, Subset) and _labels(images) is not None:  # item i of the data is image i
        return images.indices
    return None


def is_finished(done: set[int], limit: int | None, images: Any) -> bool:
    """True if as many images have a record as an evaluator with this ``limit`` evaluates."""
    return len(done) >= min(len(images), limit or len(images))


def _labels(images: Any) -> Tensor | None:
    labels = getattr(images.dataset if isinstance(images, Subset) else images, "labels", None)
    return labels if isinstance(labels, Tensor) else None
