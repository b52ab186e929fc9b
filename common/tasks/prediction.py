"""Predictions before and after purification: asked of any classifier, and saved by a callback."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from rich.console import Console
from torch import Tensor

from common.data.unlabelled import UnlabelledImages
from common.noise import Noise
from common.robustness.classifiers import Classifier, Purified
from common.robustness.padding import unpadded
from common.robustness.voting import Voting
from common.tasks.prediction_folder import ResultFolder, save_png, target_names
from common.tasks.step_progress import StepProgress

DIGITS = 6  # significant digits of a probability


@dataclass
class Prediction:
    """What a defence says of B images.

    ``index`` and ``label`` (B,) are the batch's. ``before`` (B,K) are the probabilities of the image as it came,
    ``purified`` (B,C,H,W) is what the purifier made of it, in pixels, unclamped, and ``after`` (B,K) are the
    probabilities then, those of the whole defence. Without a purifier the last two are None. ``failure`` says why the
    network took no image of this size; there are no probabilities then.
    """

    index: Tensor
    label: Tensor
    before: Tensor
    purified: Tensor | None = None
    after: Tensor | None = None
    failure: str = ""


def predict(classifier: Classifier, batch: tuple[Tensor, Tensor, Tensor], seed: int = 0) -> Prediction:
    """One draw for each image of a batch (image, label, index), under the noise of an evaluator's first scored draw.

    Networks take images of certain sizes only: for other ones the `Prediction` has a ``failure`` and no probabilities.
    """
    image, label, index = batch
    if not len(index):
        return Prediction(index, label, torch.zeros(0, 0))
    defence = unpadded(classifier)
    with torch.inference_mode(False), torch.no_grad():  # guidance takes gradients inside
        image, noise = image.clone(), Noise.of(seed, index.clone()).stream("score")
        try:
            return Prediction(index, label, *_ask(defence, image, noise))
        except torch.OutOfMemoryError as error:
            many = f"{len(image)} images of {_size(image)}"
            raise ValueError(f"no memory for {many}: set data.init_args.batch_size to less") from error
        except (RuntimeError, ValueError, AssertionError) as error:  # however a network says that a size is wrong
            reason = str(error).split("\n")[0]
            failure = f"the network takes no image of {_size(image)} ({reason}); data.init_args.size resizes"
            return Prediction(index, label, torch.zeros(0, 0), failure=failure)


def _size(image: Tensor) -> str:
    return f"{image.shape[-2]}x{image.shape[-1]} pixels"


def _ask(defence: Classifier, image: Tensor, noise: Noise) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """``before``, ``purified`` and ``after``."""
    inner = defence.classifier if isinstance(defence, Voting) else defence
    if not isinstance(inner, Purified):
        return defence(image, noise).float().softmax(1), None, None
    if inner is defence:
        purified: Tensor = inner.purifier(image, noise)
        after = inner.classifier(purified, noise.stream("classifier"))
    else:
        purified, after = defence.views(image, noise)["purified"], defence(image, noise)
    before = inner.classifier(image, noise.stream("classifier"))  # last: what takes long should start at once
    return before.float().softmax(1), purified, after.float().softmax(1)


class SavePredictions(L.Callback):
    """Writes what `predict` finds into the folder ``out``: purified images and the table ``predictions.csv``.

    Images are PNG files under the relative names of the images they were made of. The table has a row for each
    image: class and probability before and after. Images that cannot be read, or that the network does not take,
    are named in ``skipped.csv``. Any number of processes write together.

    Raises ``ValueError`` where something of the user's could be overwritten, and when not one picture worked.
    """

    def __init__(self, out: str | Path = "runs/predictions") -> None:
        self.folder = ResultFolder(out)
        self._pictures: UnlabelledImages | None = None
        self._targets: list[str] = []
        self._classes: list[str] = []
        self._worked: set[str] = set()
        self._progress: StepProgress | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Like ``teardown`` it runs on every process, also on one that gets no image."""
        if stage != "predict":
            return
        data: Any = getattr(trainer, "datamodule", None)
        self._pictures, self._classes = getattr(data, "files", None), list(getattr(data, "classes", None) or [])
        self._targets = target_names(self._pictures.names) if self._pictures else []
        if trainer.is_global_zero:
            self.folder.prepare(self._pictures)
        trainer.strategy.barrier("the folder for predictions is there")

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            what = "the test images" if self._pictures is None else f"{len(self._pictures)} pictures"
            Console().print(f"Predicting {what}; the results go to {self.folder.path}", markup=False, soft_wrap=True)
        self._progress = StepProgress(trainer, pl_module)

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not isinstance(outputs, Prediction):
            raise ValueError(f"only a task whose predict_step returns a Prediction can be saved; got {type(outputs)}")
        size = _size(batch[0])
        if outputs.failure and size in self._worked:
            raise ValueError(f"images of {size} worked before, so their size is no reason: {outputs.failure}")
        if not outputs.failure and len(outputs.index):
            self._worked.add(size)
        self.folder.append(self._rows(outputs), trainer.global_rank)
        if self._progress is not None:
            self._progress.next_batch()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage != "predict":
            return
        if self._progress is not None:
            self._progress.remove()
        trainer.strategy.barrier("every process has written its predictions")
        if trainer.is_global_zero:
            self.folder.finish(self._pictures)

    def _rows(self, found: Prediction) -> Iterator[dict[str, Any]]:
        """A row of the table for each image, whose purified version is written along."""
        files = self._pictures
        before, after = _top(found.before), _top(found.after)
        for row, (index, label) in enumerate(zip(found.index.tolist(), found.label.tolist(), strict=True)):
            index = files.positions[index] if files else index  # rows are in the order of the names
            entry: dict[str, Any] = {"index": index, "file": files.names[index] if files else f"{index:06d}"}
            if found.failure:
                yield entry | {"failure": found.failure}
                continue
            if label >= 0:
                entry |= {"label": label}
            if found.purified is not None:
                entry["purified"] = self._targets[index] if files else f"{index:06d}.png"
                save_png(found.purified[row], self.folder.path / entry["purified"])
            for when, top in (("before", before), ("after", after)):
                if top:
                    number, probability = top[row]
                    name = {f"{when}_class": self._classes[number]} if number < len(self._classes) else {}
                    entry |= {when: number, **name, f"{when}_probability": probability}
            yield entry


def _top(probability: Tensor | None) -> list[tuple[int, float]]:
    """(class, probability) of the most probable class in each row of (B,K)."""
    if probability is None or not probability.numel():
        return []
    value, number = probability.max(1)
    return [(n, float(f"{p:.{DIGITS}g}")) for n, p in zip(number.tolist(), value.tolist(), strict=True)]
