"""The test loop: a classifier, a suite of evaluators, and one JSON row per image and evaluator."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torchmetrics import Metric

from common.data.modules import Example, ImageData
from common.identity import SPEED_ONLY, identify, settings
from common.predict import Prediction, predict
from common.report import summary_table
from common.robustness.batches import Batch
from common.robustness.classifiers import Classifier, Steady
from common.robustness.evaluators import Attacked, Certified, Evaluator
from common.robustness.metrics import CertifiedAccuracy, RobustAccuracy
from common.robustness.records import Record, Records
from common.robustness.suite import suite
from common.robustness.threat import Threat
from common.robustness.verification import Verify, complaint

Verification = Literal["refuse", "warn", "off"]
DIAGNOSTICS = "diagnostics"  # what was found out about a run, beside its records


class RobustTask(L.LightningModule):
    """Test a classifier, which every defence is, with a list of evaluators; one JSON row per image and evaluator.

    Rows that the directory ``records`` already holds are skipped, so an interrupted run continues where it stopped, on
    any number of processes; rows of another configuration are refused. No collective runs inside the loop: ranks may
    have unequal numbers of batches, or none. When all are done, the merged records are summarised in a table.

    ``threat`` is that of the evaluators that name none.

    ``verify``: before an attack that uses gradients, `Verify` asks at the test's first two images whether they are what
    they claim to be. "refuse" stops a test that fails it; "warn" goes on and marks its records (``verified: false``);
    "off" asks nothing. What it found is in the directory ``records/diagnostics``.
    """

    def __init__(
        self,
        classifier: Classifier,
        evaluators: Sequence[Evaluator],
        records: str = "runs/records",
        threat: Threat | None = None,
        verify: Verification = "refuse",
    ) -> None:
        super().__init__()
        if verify not in get_args(Verification):
            raise ValueError(f"verify must be one of {', '.join(get_args(Verification))}; got {verify!r}")
        self.evaluators, self.path, self.verify = suite(evaluators, threat), records, verify
        self.classifier = Steady(classifier.freeze())
        self.allow_zero_length_dataloader_with_multiple_devices = True  # more processes than images
        self._accuracy: dict[str, Metric] = {}
        self._records: Records | None = None
        self._done: dict[str, set[int]] = {}
        self._first: list[int] = []
        self._marks: dict[str, Any] = {}

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
        wanted = max((getattr(evaluator, "limit", None) or 0 for evaluator in self.evaluators), default=0)
        self._first = [int(index) for _, _, index in self._examples(wanted)]
        if self.verify != "off" and any(map(_uses_gradients, self.evaluators)):
            self._verify(parts)

    def _examples(self, count: int) -> list[Example]:
        """The test's first images, on every rank the same."""
        loader = self.trainer.test_dataloaders
        dataset = getattr(loader[0] if isinstance(loader, list) else loader, "dataset", [])
        return [dataset[position] for position in range(min(count, len(dataset)))]

    def _verify(self, parts: Mapping[str, Any]) -> None:
        """Every rank asks the same of the same images, so all go on or none does; one writes down what was found."""
        verify = Verify()
        examples = self._examples(verify.limit or 0)
        if not examples:
            return
        image = torch.stack([image for image, _, _ in examples]).to(self.device)
        label, index = (torch.tensor([int(row[k]) for row in examples], device=self.device) for k in (1, 2))
        rows = verify(self.classifier, (image, label, index))
        if self.trainer.is_global_zero:
            fingerprint, description = identify({**parts, "evaluators": [verify]})
            diagnostics = Records(Path(self.path) / DIAGNOSTICS, fingerprint, description)
            done = diagnostics.done(verify.name)
            diagnostics.append([row for row in rows if row.index not in done])
            diagnostics.merge()
            diagnostics.close()
        if text := complaint(rows):
            if self.verify == "refuse":
                raise ValueError(text)
            rank_zero_warn(text)
            self._marks = {"verified": False}

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
        rows = evaluator(self.classifier, batch)
        if self._marks and _uses_gradients(evaluator):
            rows = [replace(row, values={**row.values, **self._marks}) for row in rows]
        return rows

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


def _uses_gradients(evaluator: Evaluator) -> bool:
    return isinstance(evaluator, Attacked) and getattr(evaluator.attack, "white_box", True)


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
