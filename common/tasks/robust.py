"""RobustTask: test a classifier with a suite of evaluators, one record per image and evaluator."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args
from uuid import uuid4

import lightning as L
from lightning.pytorch.utilities import rank_zero_warn
from torchmetrics import Metric

from common.checks.settings import check_count, check_folder, check_one_of, check_optional, check_part
from common.engine.engine import Engine
from common.engine.precision import exact_precision
from common.files.locking import unlock
from common.processes.interrupts import INTERRUPTS
from common.records.record_files import DIAGNOSTICS
from common.records.schema import AttackedRecord, Record, Source
from common.report.ending import end_of_test
from common.robustness.certification.crew import helped
from common.robustness.classifiers import Classifier
from common.robustness.evaluation.batches import Batch, check_batch, check_classifier
from common.robustness.evaluation.clean_and_certified import Certified
from common.robustness.evaluation.evaluator import Evaluator
from common.robustness.evaluation.suite import suite
from common.robustness.gradient_check.classifier_check import GradientCheck, failure_message, weak_gradients
from common.robustness.padding import Padded
from common.robustness.threats.threat import Threat
from common.tasks.compilation import settle
from common.tasks.diagnostics import enough, gradient_checks, masking_variants
from common.tasks.engine import EngineOfTest
from common.tasks.independence import IMAGES, check_certifiers, check_trainer, warn_of_dependence
from common.tasks.interruption import connect, finish
from common.tasks.parts import WHOLE, lock_file
from common.tasks.portions import Portions
from common.tasks.prediction import Prediction, predict_batch, smoothed_classifier, smoothed_predictions
from common.tasks.recorded_again import check_recorded
from common.tasks.recording import RecordedSuite, dataset_of, declared_classes, first_batch
from common.tasks.running_metrics import final_accuracies, running_accuracy
from common.tasks.shares import Work, share_images

Verification = Literal["refuse", "warn", "off"]


class RobustTask(L.LightningModule):
    """Test a classifier, which every defence is, with a list of evaluators; one record per image and evaluator.

    A test that was interrupted continues with the images that have no record yet, on any number of processes. The
    directory ``records`` is refused if it holds records of another run: of other settings, weights or data, of parts
    that cannot be determined (lambdas, closures), or if a recorded image, evaluated anew, gives another row.
    Each rank takes the next images when it is free (`common.tasks.shares`), and never waits for another. Several jobs
    may test one ``part`` (k, n) of the images each, in one directory. At the end the records of all ranks are merged,
    the headline is printed, and ``trainer.callback_metrics`` holds `final_accuracies` on rank 0.

    Parameters
    ----------
    classifier:
        The defence. It is frozen, and evaluated in float32.
    evaluators:
        ``Clean``, ``Attacked``, ``Certified`` or your own; see ``common.robustness.Evaluator``.
    records:
        Directory of the records. ``records/diagnostics`` holds those of the gradient check and of the masking variants.
    threat:
        Threat model of the evaluators that name none.
    verify:
        ``GradientCheck`` on the first two images, before an attack that uses gradients. "refuse" raises
        ``ValueError`` if it fails; "warn" goes on and marks the records ``verified: false``; "off" skips it, and
        the warning of logits that depend on other images, or on calls before.
    masking:
        Number of images for the masking variants: the first white-box attack with larger budgets, fewer steps, one
        draw, and without the defence (``masking_suite``). At most one in sixteen images; 0 for none.
    engine:
        How all networks of the defence run: precision, memory order, compilation, call size. None is float32.
    """

    def __init__(
        self,
        classifier: Classifier,
        evaluators: Sequence[Evaluator],
        records: str = "runs/records",
        threat: Threat | None = None,
        verify: Verification = "refuse",
        masking: int = 16,
        engine: Engine | None = None,
    ) -> None:
        super().__init__()
        check_count("masking, a number of images,", masking, 0, note="0 is for none")
        check_one_of("verify", verify, get_args(Verification))
        check_folder("records", records)
        check_optional(check_part, "threat", threat, Threat)
        check_optional(check_part, "engine", engine, Engine)
        check_classifier(classifier)
        self.evaluators, self.path = suite(evaluators, threat), records
        self.verify, self.masking = verify, masking
        self.classifier, self.engine = Padded(classifier.freeze()), EngineOfTest(engine)
        self.allow_zero_length_dataloader_with_multiple_devices = True  # more processes than images
        self._results: RecordedSuite | None = None
        self._diagnostics: RecordedSuite | None = None
        self._accuracy: dict[Source, Metric] = {}
        self._portions: dict[Source, Portions] = {}
        self._unverified = False  # the gradient check failed, and the test went on
        self.predicted: set[int] = set()  # indices of the images that `predict` leaves out
        self.work: Work | None = None  # of this test, all ranks together
        self._session = ""  # the same in all processes of this start
        self.part = WHOLE  # of the images, of a job beside others

    def setup(self, stage: str) -> None:
        """Agree on the session. Lightning runs this hook on a rank without images too."""
        connect(self.trainer)
        strategy = self.trainer.strategy
        self.engine.start(self.classifier, strategy.root_device, self.trainer.num_devices, strategy.broadcast)
        self._session = strategy.broadcast(uuid4().hex)

    def on_test_start(self) -> None:
        check_trainer(self.trainer)
        self.trainer.test_loop.verbose = False  # the headline takes the place of Lightning's table of metrics
        self.classifier.classes = declared_classes(self.trainer)
        settle(self.engine, self.classifier, self.evaluators, Path(self.path), self.trainer, self._session)
        check_certifiers(self.classifier, self.evaluators, first_batch(self.trainer, 1, self.device), self.engine)
        images, checks = dataset_of(self.trainer), gradient_checks(self.evaluators)
        variants = masking_variants(self.evaluators, images, self.masking)
        wanted = [*(checks if self.verify != "off" else []), *(variants if enough(images, self.masking) else [])]
        self._results = self._open(self.path, self.evaluators)
        if self.global_rank == 0:
            self._results.lock(self.part)
        self.tell(self._results)
        if self.verify != "off":
            warn_of_dependence(self.classifier, self.evaluators, first_batch(self.trainer, IMAGES, self.device))
        if wanted:  # all of them identify the records, since more images may follow
            diagnostics = self._open(Path(self.path) / DIAGNOSTICS, [*checks, *variants])
            self._diagnostics = replace(diagnostics, evaluators=wanted)
        self._accuracy = {
            evaluator.source: running_accuracy(isinstance(evaluator, Certified)).to(self.device)
            for evaluator in self.evaluators
        }
        for check in checks:
            if check in wanted:
                self._check_gradients(check)
        check_recorded(self._results, self.classifier, self.trainer, self._session, self.engine)
        self.work = share_images(self.trainer, self._suites, self.part, self.classifier, self._session, self.engine)
        INTERRUPTS.progress = self.progress

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        batch = check_batch(batch)
        for recorded in self._suites:
            for evaluator in recorded.evaluators:
                pending = None if isinstance(evaluator, GradientCheck) else recorded.pending(evaluator, batch)
                if pending is None:
                    continue
                portions = self._portions.setdefault(evaluator.source, Portions(evaluator, self.classifier))
                for portion in portions.of(pending):
                    with recorded.keeping(evaluator.source, portion[2]):
                        if rows := self._evaluate(evaluator, portion):
                            recorded.append(rows)
                    if rows:
                        INTERRUPTS.check()
                        self._log_accuracy(evaluator.source, rows)
        if self.work is not None:
            self.work.remaining.add(batch[2].tolist())

    def on_test_epoch_end(self) -> None:
        if self.work is not None:
            self.work.leave()

    def teardown(self, stage: str) -> None:
        """Merge the records. Lightning runs no other hook on a rank that had no images."""
        self.engine.stop()
        if stage != "test":
            return
        finish(self.trainer)
        if self._suites and self.trainer.is_global_zero:
            for recorded in self._suites:
                recorded.merge()
            self.trainer.callback_metrics.update(final_accuracies(self.path))
            unlock(Path(self.path), lock_file(Path(self.path), self.part))
            self.show()

    def progress(self) -> str:
        """The number of images that have all their rows, for the line of an interrupted test."""
        if self._results is None:
            return ""
        images = len(dataset_of(self.trainer))
        return f" after {self._results.complete(images)} of {images} images; the same command goes on"

    def tell(self, recorded: RecordedSuite) -> None:
        """Print how many images earlier starts have done, and warn if the test cannot be resumed."""
        recorded.tell_resumed(len(dataset_of(self.trainer)))
        recorded.warn_of_undetermined()

    def show(self) -> None:
        """Print the headline of the records."""
        end_of_test(self.path)

    @property
    def _suites(self) -> list[RecordedSuite]:
        """The open suites: results of the defence, then diagnostics."""
        return [recorded for recorded in (self._results, self._diagnostics) if recorded is not None]

    def predict_step(self, batch: Batch, batch_idx: int) -> Prediction:
        """Predictions for a batch: before and after purification if the classifier is a purified one, and smoothed."""
        image, label, index = batch
        rows = [row for row, number in enumerate(index.tolist()) if number not in self.predicted]
        if len(rows) < len(index):
            batch = (image[rows], label[rows], index[rows])
        prediction = predict_batch(self.classifier, batch)
        if len(prediction.index) and not prediction.failure:
            prediction.smoothed = smoothed_predictions(self.classifier, batch, self.evaluators)
        return prediction

    def prediction_parts(self) -> dict[str, Any]:
        """The parts that decide the predictions."""
        return {"classifier": self.classifier.classifier, "smoothed": smoothed_classifier(self.evaluators)}

    def _open(self, path: str | Path, evaluators: Sequence[Evaluator]) -> RecordedSuite:
        return RecordedSuite.open(
            path, evaluators, self.classifier.classifier, self.trainer, self._session, self.engine.identity
        )

    def _check_gradients(self, check: GradientCheck) -> None:
        """Run the gradient check on every rank, with the same result; rank 0 records it. ``ValueError`` if it fails."""
        batch = first_batch(self.trainer, check.limit or 2, self.device)
        if batch is None:
            return
        with exact_precision():
            rows = check(self.classifier, batch)
        if self.trainer.is_global_zero and self._diagnostics is not None:
            done = self._diagnostics.done[check.source]
            self._diagnostics.records.append([row for row in rows if row.index not in done])
        if weak := weak_gradients(rows):
            rank_zero_warn(weak)
        if text := failure_message(rows, accepted=self.verify == "warn"):
            if self.verify == "refuse":
                raise ValueError(text)
            rank_zero_warn(text)
            self._unverified = True

    def _evaluate(self, evaluator: Evaluator, batch: Batch) -> Sequence[Record]:
        with helped(self.work.crew if self.work else None):
            rows = self.engine.evaluate(evaluator, self.classifier, batch)
        if self._unverified and evaluator.uses_gradients:
            return [replace(row, verified=False) for row in rows if isinstance(row, AttackedRecord)]
        return rows

    def _log_accuracy(self, source: Source, rows: Sequence[Record]) -> None:
        """Show this rank's accuracy so far in the progress bar; diagnostics have none."""
        if source in self._accuracy:
            self._accuracy[source].update(rows)
            shown = self._accuracy[source].compute()
            self.log(source.title, shown, on_step=True, on_epoch=False, prog_bar=True, logger=False, batch_size=1)
