"""Run of an evaluation: the test of the command line, quietly, without a trace in the user's module."""

import logging
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment

from common.api.arguments import name_of
from common.api.probe import probe
from common.api.result import Result
from common.api.untouched import device_of, untouched
from common.data.image_data import ImageData
from common.engine.engine import Engine
from common.files.locking import unlock
from common.naming.nearest import did_you_mean
from common.processes.interrupts import Interrupted
from common.report.runs import read_runs
from common.robustness.classifiers import Classifier
from common.robustness.evaluation.evaluator import Evaluator
from common.robustness.threats.threat import Threat
from common.tasks.progress_bar import LiveProgressBar
from common.tasks.recording import RecordedSuite
from common.tasks.robust import RobustTask, Verification

ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")


@dataclass(frozen=True)
class Settings:
    """Settings of a run beside its evaluators; see `evaluate`."""

    records: str | Path | None = None
    verify: Verification = "refuse"
    masking: int = 16
    accelerator: str = "auto"
    progress: bool = True
    engine: Engine | None = None


class QuietTask(RobustTask):
    """`RobustTask` without tables on the console, in a single process; without ``resumable`` records too."""

    resumable = True

    def tell(self, recorded: RecordedSuite) -> None:
        if self.resumable:
            recorded.warn_of_undetermined()

    def progress(self) -> str:
        """As on the command line; what is not kept is lost."""
        advice = "the same call goes on" if self.resumable else "nothing was kept: records= names a directory for it"
        return f"{super().progress().partition(';')[0]}; {advice}"

    def show(self) -> None:
        return

    def close(self) -> None:
        """Close the records; parts without a row are removed. The networks get their own forward passes back."""
        self.engine.stop()
        for recorded in self._suites:
            recorded.records.close()
        unlock(Path(self.path))


def run_evaluation(
    classifier: Classifier,
    data: ImageData,
    make: Callable[[int], Sequence[Evaluator]],
    threat: Threat | None,
    settings: Settings,
) -> Result:
    """Test the classifier on the images of ``data`` with the evaluators of ``make(number of classes)``.

    Raises ``ValueError`` as `probe` and `RobustTask` do, and when memory does not suffice.
    """
    device = choose_device(classifier, settings.accelerator)
    with ExitStack() as stack:
        if settings.records is not None and not str(settings.records).strip():
            raise ValueError("records must be a directory, or None; got an empty text. Write records='runs/mine'")
        if settings.records is None:
            path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "records"
        else:
            path = Path(settings.records).expanduser()
        loader_draws = torch.random.fork_rng(range(torch.cuda.device_count()))
        for context in (untouched(classifier), _quiet(), _same_handler(), loader_draws):
            stack.enter_context(context)
        images: Any = data.test_dataloader().dataset
        first = torch.stack([images[position][0] for position in range(min(2, len(images)))]).to(device)
        try:
            classes = probe(classifier.to(device), first, _labels(images))
            options = {"verify": settings.verify, "masking": settings.masking, "engine": settings.engine}
            task = QuietTask(classifier, make(classes), str(path), threat, **options)  # type: ignore[arg-type]
            task.resumable = settings.records is not None
            stack.callback(task.close)
            _test(_trainer(device, settings.progress), task, data)
        except torch.OutOfMemoryError as error:
            raise ValueError(f"out of memory for {data.batch_size} images at a time: lower batch_size") from error
        found, *_ = read_runs([path])
    return Result(replace(found, name=name_of(classifier)))


def _labels(images: Any) -> torch.Tensor:
    """Labels of the tested images: a selection of a data set."""
    labels: torch.Tensor = images.dataset.labels[torch.as_tensor(list(images.indices), dtype=torch.int64)]
    return labels


def choose_device(classifier: Classifier, accelerator: str) -> torch.device:
    """The module's own accelerator, else the machine's CUDA device if there is one, else the CPU.

    Raises ``ValueError`` for a name of no device, and for a GPU that torch does not see.
    """
    own = device_of(classifier)
    if accelerator != "auto":
        try:
            wanted = torch.device("cuda" if accelerator == "gpu" else accelerator)
        except (RuntimeError, TypeError) as error:
            advice = did_you_mean(str(accelerator), ACCELERATORS)
            raise ValueError(f"accelerator must be auto, cpu, gpu or cuda:N; got {accelerator!r}.{advice}") from error
        if wanted.type == "cuda" and not torch.cuda.is_available():
            raise ValueError(f"accelerator {accelerator!r}: torch sees no such device here. Use 'cpu' or 'auto'")
        return own if own.type == wanted.type else wanted
    return torch.device("cuda", 0) if own.type == "cpu" and torch.cuda.is_available() else own


def _trainer(device: torch.device, progress: bool) -> L.Trainer:
    return L.Trainer(
        accelerator=device.type,
        devices=[device.index or 0] if device.type == "cuda" else 1,
        plugins=[LightningEnvironment()],  # one process, also inside a SLURM job
        callbacks=[LiveProgressBar()] if progress else [],
        enable_progress_bar=progress,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        inference_mode=False,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Context manager: no notes of Lightning on devices and workers."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have many workers", UserWarning)
        warnings.filterwarnings("ignore", "`isinstance\\(treespec", FutureWarning)
        warnings.filterwarnings("ignore", "GPU available but not used", UserWarning)
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)


@contextmanager
def _same_handler() -> Iterator[None]:
    """Context manager: the handler of interrupts is the same afterwards; Lightning ignores them once it had one."""
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if main:
            signal.signal(signal.SIGINT, handler)


def _test(trainer: L.Trainer, task: QuietTask, data: ImageData) -> None:
    """Run the test. An interrupt stays ``KeyboardInterrupt``, and SIGTERM ends Python with status 143, with a line.

    Lightning turns the one into the end of Python and the other into its end with status 0.
    """
    interrupt = None
    try:
        trainer.test(task, datamodule=data, verbose=False)
    except SystemExit as end:
        interrupt = KeyboardInterrupt() if isinstance(end.__context__, KeyboardInterrupt) else None
        if interrupt is None and not trainer.received_sigterm:
            raise
    if interrupt or trainer.received_sigterm:
        print(f"interrupted{task.progress()}", file=sys.stderr)
        raise interrupt or Interrupted(signal.SIGTERM)
