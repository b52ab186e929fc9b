"""The LightningModules that all methods share: train a classifier, train a denoiser, test a defence.

Batches are (image (B,C,H,W) float32 in [0,1], label (B,) int64, index (B,) int64).
"""

import inspect
from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy

from common.data.modules import ImageData
from common.diffusion.denoisers import Denoiser
from common.diffusion.losses import draw_sigma_lognormal, edm_loss
from common.identity import SPEED_ONLY, identify, settings, weights_hash
from common.noise import Noise
from common.predict import Prediction, predict
from common.report import summary_table
from common.robustness.classifiers import Classifier, Steady
from common.robustness.evaluators import Certified, Evaluator
from common.robustness.metrics import CertifiedAccuracy, RobustAccuracy
from common.robustness.records import Record, Records
from common.training import Batch, Recipe, TrainingTask
from common.units import to_model


class ClassifierTask(TrainingTask):
    """Train or fine-tune a classifier by cross-entropy.

    Parameters
    ----------
    classifier:
        Any deterministic :class:`Classifier`: one of our networks or any of timm's behind ``NetworkClassifier``.
    noise_sigma:
        Gaussian noise of this standard deviation (pixels) on every training image, the recipe of randomised smoothing
        (Cohen et al., arXiv 1902.02918).
    purifier:
        Fine-tune on what this frozen purifier makes of the images; one fresh purification per image and epoch.
    """

    def __init__(
        self,
        classifier: Classifier,
        noise_sigma: float = 0.0,
        purifier: nn.Module | None = None,
        num_classes: int = 10,
        recipe: Recipe | None = None,
        export: str | None = None,
    ) -> None:
        super().__init__(recipe, export)
        if noise_sigma < 0:
            raise ValueError(f"noise_sigma must be >= 0, in pixel units; got {noise_sigma}")
        self.classifier, self.noise_sigma = classifier, noise_sigma
        self.purifier = None if purifier is None else purifier.requires_grad_(False).eval()
        if self.purifier is not None:  # frozen: known by its hash, not saved again
            self.strict_loading = False
            self.save_hyperparameters({"purifier_sha256": weights_hash(self.purifier)})
        self.num_classes = num_classes
        self.train_accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.val_accuracy = MulticlassAccuracy(num_classes, average="micro")

    def trained(self) -> nn.Module:
        return self.classifier

    @property
    def classes(self) -> int:
        return self.num_classes

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        for key in [key for key in checkpoint["state_dict"] if key.startswith("purifier.")]:
            del checkpoint["state_dict"][key]

    def prepare(self, image: Tensor, noise: Noise) -> Tensor:
        """The image as training shows it: purified, then noisy, if so configured."""
        if self.purifier is not None:
            with torch.no_grad():
                image = self.purifier(image, noise)
        if self.noise_sigma:
            image = image + self.noise_sigma * noise.stream("augmentation").normal(0, image.shape[1:])
        return image

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        image, label, index = self.checked(batch)
        logits = self.classifier(self.prepare(image, self.noise(index)))
        self.train_accuracy(logits, label)
        self.log("train/accuracy", self.train_accuracy, on_step=False, on_epoch=True, prog_bar=True)
        loss = F.cross_entropy(logits, label)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(image))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        image, label, index = self.checked(batch)
        self.val_accuracy(
            self.classifier(self.prepare(image, Noise.of(self.recipe.seed, index).stream("validation"))), label
        )
        self.log("val/accuracy", self.val_accuracy, on_step=False, on_epoch=True, prog_bar=True)


class DenoiserTask(TrainingTask):
    """Train a denoiser D(x, σ, y) by denoising score matching with EDM's weighting (Karras et al., arXiv 2206.00364).

    Labels are dropped with probability ``label_dropout``, so that one network is conditional (NDC) and unconditional
    (DiffPure, AGDM, APNDC's first denoising). ln σ ~ N(P_mean, P_std²), σ in the model frame.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        label_dropout: float = 0.2,
        p_mean: float = -1.2,
        p_std: float = 1.2,
        recipe: Recipe | None = None,
        export: str | None = None,
    ) -> None:
        super().__init__(recipe, export)
        if not 0 <= label_dropout <= 1:
            raise ValueError(f"label_dropout is a probability; got {label_dropout}")
        if p_std <= 0:
            raise ValueError(f"p_std must be > 0; got {p_std}")
        self.denoiser, self.label_dropout, self.p_mean, self.p_std = denoiser, label_dropout, p_mean, p_std
        self.val_loss = MeanMetric()

    def trained(self) -> nn.Module:
        return self.denoiser

    @property
    def classes(self) -> int | None:
        return self.denoiser.num_classes

    def loss(self, batch: Batch, noise: Noise) -> Tensor:
        """Weighted denoising error per image, (B,)."""
        image, label, _ = batch
        x0 = to_model(image)
        sigma = draw_sigma_lognormal(noise.normal(0, (), x0.dtype), self.p_mean, self.p_std)
        keep = noise.uniform(1, ()) >= self.label_dropout
        label = torch.where(keep, label, torch.full_like(label, -1))  # -1: no label
        known = None if self.denoiser.num_classes is None else label
        return edm_loss(self.denoiser, x0, sigma, noise.normal(2, x0.shape[1:], x0.dtype), known)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self.loss(batch, self.noise(self.checked(batch)[2])).mean()
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch[0]))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        index = self.checked(batch)[2]
        self.val_loss(self.loss(batch, Noise.of(self.recipe.seed, index).stream("validation")))
        self.log("val/loss", self.val_loss, on_step=False, on_epoch=True, prog_bar=True)


class RobustTask(L.LightningModule):
    """Test a classifier, which every defence is, with a list of evaluators; one JSON row per image and evaluator.

    Rows that the directory ``records`` already holds are skipped, so an interrupted run continues where it stopped, on
    any number of processes; rows of another configuration are refused. No collective runs inside the loop: ranks may
    have unequal numbers of batches, or none. When all are done, the merged records are summarised in a table.
    """

    def __init__(self, classifier: Classifier, evaluators: Sequence[Evaluator], records: str = "runs/records") -> None:
        super().__init__()
        names = [evaluator.name for evaluator in evaluators]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"evaluators need distinct names, at least one; got {names}. Set `name` in init_args")
        self.classifier = Steady(classifier.freeze())
        self.allow_zero_length_dataloader_with_multiple_devices = True  # more processes than images
        self.evaluators, self.path = list(evaluators), records
        self._accuracy: dict[str, Metric] = {}
        self._records: Records | None = None
        self._done: dict[str, set[int]] = {}

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

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        for evaluator in self.evaluators:
            rows = self.evaluate(evaluator, batch)
            if rows and self._records is not None:
                self._records.append(rows)
                self._show(evaluator.name, rows)

    def evaluate(self, evaluator: Evaluator, batch: Batch) -> list[Record]:
        """Records of the images in ``batch`` that have none yet."""
        done = self._done.get(evaluator.name, set())
        if done and isinstance(batch, tuple | list) and len(batch) == 3:
            todo = [row for row, index in enumerate(batch[2].tolist()) if index not in done]
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
