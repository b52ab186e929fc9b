"""Callback that saves predictions: purified images, and a table of classes and probabilities."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from common.data.image_data import ImageData
from common.data.unlabelled import UnlabelledImages
from common.naming.terminal import Terminal
from common.processes.interrupts import INTERRUPTS
from common.records.fingerprint import identity
from common.records.rows import Header
from common.records.schema import ABSTAIN
from common.robustness.certification.smoothed_prediction import SmoothedPrediction
from common.tasks.interruption import connect, finish
from common.tasks.prediction import Prediction, pixel_size
from common.tasks.prediction_folder import PredictionFolder, save_png, stamp, target_names
from common.tasks.robust import RobustTask
from common.tasks.step_progress import StepProgress

DIGITS = 6  # significant digits of a probability


class SavePredictions(L.Callback):
    """Save the predictions of ``Trainer.predict`` in the folder ``out``: purified images and ``predictions.csv``.

    Images are PNG files under the relative names of the files they were made from. The table has one row per image:
    class and probability before and after purification. A smoothed classifier adds its class, or "abstain", and the
    p-value of the test behind it. Files that cannot be read, or whose size the network rejects,
    are listed in ``skipped.csv``. Several processes of one run may write at the same time. An interrupted run continues
    with the images that it has not predicted; the results of an earlier run stay until all images are predicted.

    Raises ``ValueError`` where a file of the user's could be overwritten, and if no image could be predicted.
    """

    def __init__(self, out: str | Path = "runs/predictions") -> None:
        self.folder = PredictionFolder(out)
        self._files: UnlabelledImages | None = None
        self._targets: list[str] = []
        self._classes: list[str] = []
        self._accepted: set[str] = set()  # sizes
        self._progress: StepProgress | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Prepare the folder. Like ``teardown`` it runs on every process, also on one that gets no image."""
        if stage != "predict":
            return
        data = trainer.datamodule  # type: ignore[attr-defined]
        if isinstance(data, ImageData):
            self._files, self._classes = data.files, list(data.classes or [])
        self._targets = target_names(self._files.names) if self._files else []
        connect(trainer)
        parts = pl_module.prediction_parts() if isinstance(pl_module, RobustTask) else {"module": pl_module}
        run = identity({**parts, "images": self._read_images(data), "classes": list(self._classes)})
        self.folder.header = Header(run.fingerprint, run.description)
        done = self.folder.prepare(self._files, self._targets) if trainer.is_global_zero else None
        done = trainer.strategy.broadcast(done)
        if isinstance(pl_module, RobustTask):
            pl_module.predicted = done or set()

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            source = "the test images" if self._files is None else f"{len(self._files)} images"
            found = f", of which {count} were found there" if (count := self.folder.count()) else ""
            Terminal().print(
                f"Predicting {source}; results go to {self.folder.path}{found}", markup=False, soft_wrap=True
            )
        self._progress = StepProgress(trainer, pl_module)
        loader: Any = trainer.predict_dataloaders
        count = len(loader.dataset) if self._files is None else len(self._files)
        INTERRUPTS.progress = lambda: f" after {self.folder.count()} of {count} images; the same command goes on"

    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *position: int
    ) -> None:
        if not isinstance(outputs, Prediction):
            raise ValueError(f"predict_step must return a Prediction to be saved; got {type(outputs)}")
        size = pixel_size(batch[0])
        if outputs.failure and size in self._accepted:
            raise ValueError(
                f"images of {size} were predicted before, so their size is not the cause: {outputs.failure}"
            )
        if not outputs.failure and len(outputs.index):
            self._accepted.add(size)
        self.folder.append(self._rows(outputs), trainer.global_rank)
        if self._progress is not None:
            self._progress.next_batch()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage != "predict":
            return
        if self._progress is not None:
            self._progress.remove()
        finish(trainer)
        if trainer.is_global_zero:
            self.folder.finish(self._files)

    def _read_images(self, data: Any) -> Any:
        """Folder and reading of the images; the data module without a folder."""
        if self._files is None:
            return data
        return {"path": str(self._files.root.resolve()), "crop": self._files.crop, "channels": self._files.channels}

    def _rows(self, prediction: Prediction) -> Iterator[dict[str, Any]]:
        """One row of the table per image; its purified image is saved on the way."""
        files = self._files
        self._check_class_names(prediction)
        before, after = _top(prediction.before), _top(prediction.after)
        pairs = zip(prediction.index.tolist(), prediction.label.tolist(), strict=True)
        for row, (index, label) in enumerate(pairs):
            position = files.positions[index] if files else index
            entry: dict[str, Any] = {"index": index, "file": files.names[position] if files else f"{index:06d}"}
            entry |= {"stamp": stamp(files, position)} if files else {}
            if prediction.failure:
                yield entry | {"failure": prediction.failure}
                continue
            if label >= 0:
                entry |= {"label": label}
            if prediction.purified is not None:
                entry["purified"] = self._targets[position] if files else f"{index:06d}.png"
                save_png(prediction.purified[row], self.folder.unfinished.image(entry["purified"]))
            for when, top in (("before", before), ("after", after)):
                if top:
                    number, probability = top[row]
                    name = {f"{when}_class": self._classes[number]} if number < len(self._classes) else {}
                    entry |= {when: number, **name, f"{when}_probability": probability}
            if prediction.smoothed is not None:
                entry |= self._smoothed(prediction.smoothed[row])
            yield entry

    def _check_class_names(self, prediction: Prediction) -> None:
        """Leave the names of classes out, with a warning, where there are not as many as classes."""
        classes = prediction.before.shape[1]
        if self._classes and classes and len(self._classes) != classes:
            rank_zero_warn(
                f"the table has no names of classes: there are {len(self._classes)} names and {classes} classes. Give "
                "a file with one name per class (data.init_args.class_file)"
            )
            self._classes = []

    def _smoothed(self, one: SmoothedPrediction) -> dict[str, Any]:
        """Columns of a smoothed classifier's prediction."""
        if one.prediction == ABSTAIN:
            return {"smoothed": "abstain", "smoothed_p_value": _shown(one.p_value)}
        name = {"smoothed_class": self._classes[one.prediction]} if one.prediction < len(self._classes) else {}
        return {"smoothed": one.prediction, **name, "smoothed_p_value": _shown(one.p_value)}


def _shown(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _top(probability: Tensor | None) -> list[tuple[int, float]]:
    """(class, probability) of the most probable class in each row of (B,K)."""
    if probability is None or not probability.numel():
        return []
    value, number = probability.max(1)
    return [(n, _shown(p)) for n, p in zip(number.tolist(), value.tolist(), strict=True)]
