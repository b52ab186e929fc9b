"""The test loop: a classifier, a suite of evaluators, and one JSON row per image and evaluator."""

import inspect
from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from torchmetrics import Metric

from common.data.modules import ImageData
from common.identity import SPEED_ONLY, identify, settings
from common.predict import Prediction, predict
from common.report import summary_table
from common.robustness.batches import Batch
from common.robustness.classifiers import Classifier, Steady
from common.robustness.evaluators import Certified, Evaluator
from common.robustness.metrics import CertifiedAccuracy, RobustAccuracy
from common.robustness.records import Record, Records
from common.robustness.suite import suite
from common.robustness.threat import Threat


class RobustTask(L.LightningModule):
    """Test a classifier, which every defence is, with a list of evaluators; one JSON row per image and evaluator.

    Rows that the directory ``records`` already holds are skipped, so an interrupted run continues where it stopped, on
    any number of processes; rows of another configuration are refused. No collective runs inside the loop: ranks may
    have unequal numbers of batches, or none. When all are done, the merged records are summarised in a table.

    ``threat`` is that of the evaluators that name none.
    """

    def __init__(
        self,
        classifier: Classifier,
        evaluators: Sequence[Evaluator],
        records: str = "runs/records",
        threat: Threat | None = None,
    ) -> None:
        super().__init__()
        self.evaluators, self.path = suite(evaluators, threat), records
        self.classifier = Steady(classifier.freeze())
        self.allow_zero_length_dataloader_with_multiple_devices = True  # more processes than images
        self._accuracy: dict[str, Metric] = {}
        self._records: Records | None = None
        self._done: dict[str, set[int]] = {}
        self._first: list[int] = []

    def on_test_start(self) -> None:
        if torch.is_inference_mode_enabled():
            raise ValueError("attacks need gradients, which inference mode forbids: use Trainer(inference_mode=False)")
        if str(self.trainer.precision).startswith(("16-true", "bf16-true", "64-true", "transformer-engine")):
            raise ValueError(f"images and budgets are float32; got precision {self.trainer.precision}. Use 32-true")
        parts: dict[str, Any] = {"classifier": self.classifier.classifier, "evaluators": self.evaluators}
        if (data := getattr(self.trainer, "datamodule", None)) is not None:
            parts["data"] = data_settings(data)
        fingerprint, description = identify(parts)
        self._records = Records(self.path, fingerprint, description, rank=self.global_rank)
        self._accuracy = {e.name: _accuracy(e).to(self.device) for e in self.evaluators}
        self._done = {evaluator.name: self._records.done(evaluator.name) for evaluator in self.evaluators}
        self._first = self._first_indices()

    def _first_indices(self) -> list[int]:
        """Indices of the test's first images, as many as an evaluator is limited to."""
        wanted = max((getattr(evaluator, "limit", None) or 0 for evaluator in self.evaluators), default=0)
        loader = self.trainer.test_dataloaders
        dataset = getattr(loader[0] if isinstance(loader, list) else loader, "dataset", [])
        return [int(dataset[position][2]) for position in range(min(wanted, len(dataset)))]

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        for evaluator in self.evaluators:
            rows = self.evaluate(evaluator, batch)
            if rows and self._records is not None:
                self._records.append(rows)
                self._show(evaluator.name, rows)

    def evaluate(self, evaluator: Evaluator, batch: Batch) -> list[Record]:
        """Records of the images in ``batch`` that have none yet."""
        done, limit = self._done.get(evaluator.name, set()), getattr(evaluator, "limit", None)
        if (done or limit) and isinstance(batch, tuple | list) and len(batch) == 3:
            wanted = None if limit is None else set(self._first[:limit])
            todo = [
                row
                for row, index in enumerate(batch[2].tolist())
                if index not in done and (wanted is None or index in wanted)
            ]
            if not todo:
                return []
            batch = (batch[0][todo], batch[1][todo], batch[2][todo])
        return evaluator(self.classifier, batch)

    def teardown(self, stage: str) -> None:
        """After the test, on every rank: Lightning runs no other hook on a rank that had no images."""
        if stage != "test":
            return
        self.trainer.strategy.barrier("every rank has written its records")
        if self._records is not None and self.trainer.is_global_zero:
            self._records.merge()
            summary_table([self.path])

    def predict_step(self, batch: Batch, batch_idx: int) -> Prediction:
        """What the classifier says of the images, before and after purification if it is a purified one."""
        return predict(self.classifier, batch)

    def _show(self, name: str, rows: Sequence[Record]) -> None:
        """This rank's accuracy so far, in the progress bar."""
        metric = self._accuracy[name]
        metric.update(rows)
        self.log(name, metric.compute(), on_step=True, on_epoch=False, prog_bar=True, logger=False, batch_size=1)


def _accuracy(evaluator: Evaluator) -> Metric:
    """Of this rank alone: ranks have unequal numbers of batches, and waiting for the others would deadlock."""
    kind = CertifiedAccuracy if isinstance(evaluator, Certified) else RobustAccuracy
    return kind(sync_on_compute=False)


def data_settings(data: L.LightningDataModule) -> dict[str, Any]:
    """What of a data module decides the images: its class and its own `identity`, or its constructor's arguments."""
    if isinstance(data, ImageData):
        arguments = data.identity()
    else:
        arguments = {name: getattr(data, name, None) for name in inspect.signature(type(data)).parameters}
    return {
        "class": type(data).__qualname__,
        **{key: settings(value) for key, value in arguments.items() if key not in SPEED_ONLY},
    }
