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

from common.data.module import Example, ImageData
from common.noise import Noise
from common.records.fingerprint import SPEED_ONLY, identify, settings
from common.records.rows import DIAGNOSTICS
from common.records.store import Record, Records
from common.report.build import summary_table
from common.robustness.certification.preconditions import check_once
from common.robustness.certification.smoothing import Smoothing
from common.robustness.classifiers import Classifier, Padded
from common.robustness.evaluation.batches import Batch
from common.robustness.evaluation.evaluators import Attacked, Certified, Evaluator
from common.robustness.evaluation.suite import suite
from common.robustness.gradient_check.evaluator import GradientCheck, failure_message
from common.robustness.masking.variants import Baseline, masking_suite
from common.robustness.threats.norm_ball import Threat
from common.tasks.metrics import CertifiedAccuracy, RobustAccuracy
from common.tasks.prediction import Prediction, predict

ENOUGH = 12  # images: with fewer, paired comparisons hardly decide anything
Verification = Literal["refuse", "warn", "off"]


class RobustTask(L.LightningModule):
    """Test a classifier, which every defence is, with a list of evaluators; one JSON row per image and evaluator.

    Rows that the directory ``records`` already holds are skipped, so an interrupted run continues where it stopped, on
    any number of processes; rows of another configuration are refused. No collective runs inside the loop: ranks may
    have unequal numbers of batches, or none. When all are done, the merged records are summarised in a table.

    ``threat`` is that of the evaluators that name none.

    What can be found out about the attacks is in the directory ``records/diagnostics``. ``verify``: before an attack
    that uses gradients, `GradientCheck` checks them at the test's first two images. "refuse" stops a test that fails;
    "warn" goes on and marks its records (``verified: false``); "off" asks nothing.
    ``masking``: so many of the test's first images, though at most one in sixteen, are also attacked with the first
    white-box attack at larger budgets, with fewer steps and draws, and without the defence (`masking_suite`), which
    the masking checks compare.
    """

    def __init__(
        self,
        classifier: Classifier,
        evaluators: Sequence[Evaluator],
        records: str = "runs/records",
        threat: Threat | None = None,
        verify: Verification = "refuse",
        masking: int = 16,
    ) -> None:
        super().__init__()
        if masking < 0:
            raise ValueError(f"masking must be a number of images, 0 for none; got {masking}")
        if verify not in get_args(Verification):
            raise ValueError(f"verify must be one of {', '.join(get_args(Verification))}; got {verify!r}")
        self.evaluators, self.path = suite(evaluators, threat), records
        self.verify, self.masking = verify, masking
        self.classifier = Padded(classifier.freeze())
        self.allow_zero_length_dataloader_with_multiple_devices = True  # more processes than images
        self._accuracy: dict[str, Metric] = {}
        self._books: list[tuple[list[Evaluator], Records]] = []
        self._done: dict[str, set[int]] = {}
        self._first: list[int] = []
        self._marks: dict[str, Any] = {}

    def on_test_start(self) -> None:
        if torch.is_inference_mode_enabled():
            raise ValueError("attacks need gradients, which inference mode forbids: use Trainer(inference_mode=False)")
        if str(self.trainer.precision).startswith(("16-true", "bf16-true", "64-true", "transformer-engine")):
            raise ValueError(f"images and budgets are float32; got precision {self.trainer.precision}. Use 32-true")
        self._check_sound()
        parts: dict[str, Any] = {"classifier": self.classifier.classifier, "evaluators": self.evaluators}
        if (data := getattr(self.trainer, "datamodule", None)) is not None:
            parts["data"] = data_settings(data)
        self._books = [(self.evaluators, self._opened(self.path, parts))]
        diagnosis: list[Evaluator] = [*self._verifier(), *self._masking()]
        if diagnosis:
            records = self._opened(Path(self.path) / DIAGNOSTICS, {**parts, "evaluators": diagnosis})
            self._books.append((diagnosis, records))
        self._accuracy = {e.name: _accuracy(e).to(self.device) for e in self.evaluators}
        self._done = {e.name: records.done(e.name) for evaluators, records in self._books for e in evaluators}
        wanted = max((getattr(e, "limit", None) or 0 for evaluators, _ in self._books for e in evaluators), default=0)
        self._first = [int(index) for _, _, index in self._examples(wanted)]
        self._verify()

    def _check_sound(self) -> None:
        """Before anything is certified by smoothing: the classifier is asked whether it may be."""
        certifiers = [evaluator.smoothing for evaluator in self.evaluators if isinstance(evaluator, Certified)]
        smoothed = [certifier for certifier in certifiers if isinstance(certifier, Smoothing)]
        if smoothed and (first := self._examples(1)):
            image, _, index = first[0]
            noise = Noise.of(0, torch.tensor([int(index)], device=self.device)).stream("soundness")
            check_once(self.classifier, image[None].to(self.device), smoothed[0].level, noise)

    def _opened(self, path: str | Path, parts: Mapping[str, Any]) -> Records:
        return Records(path, *identify(parts), rank=self.global_rank)

    def _examples(self, count: int) -> list[Example]:
        """The test's first images, on every rank the same."""
        images = self._images()
        return [images[position] for position in range(min(count, len(images)))]

    def _images(self) -> Any:
        """The test's data set."""
        loader = self.trainer.test_dataloaders
        return getattr(loader[0] if isinstance(loader, list) else loader, "dataset", [])

    def _verifier(self) -> list[GradientCheck]:
        return [GradientCheck()] if self.verify != "off" and any(map(_uses_gradients, self.evaluators)) else []

    def _masking(self) -> list[Evaluator]:
        """What the first white-box attack is compared with."""
        images = self._images()
        limit = min(self.masking, len(images) // 16)
        attacked = [e for e in self.evaluators if isinstance(e, Attacked) and _uses_gradients(e)][:1]
        if limit < ENOUGH or not attacked:
            return []
        variants = masking_suite(attacked[0], limit, images[0][0].numel())
        return [*variants, Baseline(attacked[0], limit=limit)]

    def _verify(self) -> None:
        """Every rank asks the same of the same images, so all go on or none does; one writes down what was found."""
        for verify in self._verifier():
            examples = self._examples(verify.limit or 2)
            if not examples:
                return
            image = torch.stack([image for image, _, _ in examples]).to(self.device)
            label, index = (torch.tensor([int(row[k]) for row in examples], device=self.device) for k in (1, 2))
            rows = verify(self.classifier, (image, label, index))
            if self.trainer.is_global_zero:
                self._books[1][1].append([row for row in rows if row.index not in self._done[verify.name]])
            if text := failure_message(rows):
                if self.verify == "refuse":
                    raise ValueError(text)
                rank_zero_warn(text)
                self._marks = {"verified": False}

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        for evaluators, records in self._books:
            for evaluator in evaluators:
                rows = [] if isinstance(evaluator, GradientCheck) else self.evaluate(evaluator, batch)
                if rows:
                    records.append(rows)
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
        if self._books and self.trainer.is_global_zero:
            for _, records in self._books:
                records.merge()
            summary_table([self.path])

    def predict_step(self, batch: Batch, batch_idx: int) -> Prediction:
        """What the classifier says of the images, before and after purification if it is a purified one."""
        return predict(self.classifier, batch)

    def _show(self, name: str, rows: Sequence[Record]) -> None:
        """This rank's accuracy so far, in the progress bar."""
        metric = self._accuracy.get(name)
        if metric is None:  # a diagnosis
            return
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
