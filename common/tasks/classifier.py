"""ClassifierTask: train or fine-tune a classifier."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from common.checks.images import check_purified
from common.checks.settings import (
    check_count,
    check_function,
    check_noise_level,
    check_optional,
    check_part,
    check_size,
)
from common.noise import Noise
from common.numerics.copies import copied
from common.records.fingerprint import weights_hash
from common.robustness.adversarial_training import Objective
from common.robustness.classifiers import Classifier
from common.robustness.evaluation.batches import Batch
from common.tasks.recipes import Recipe
from common.tasks.training import TrainingTask, check_gradients, validation_attack


class ClassifierTask(TrainingTask):
    """Train or fine-tune a classifier by cross-entropy, or adversarially.

    Validation logs ``val/accuracy`` and, with an ``objective``, ``val/robust``: accuracy under PGD in its threat model.

    Parameters
    ----------
    classifier:
        A deterministic :class:`Classifier`, for instance a network behind ``NetworkClassifier``.
    noise_sigma:
        Standard deviation (pixels) of Gaussian noise on every training image: the recipe of randomised smoothing
        (Cohen et al., arXiv 1902.02918).
    purifier:
        Frozen purifier of the training images; each is purified anew in every epoch. Checkpoints hold its hash, not its
        weights.
    num_classes:
        Number of classes, 0..K-1.
    recipe:
        Optimiser settings.
    export:
        Safetensors file for the trained classifier.
    objective:
        Adversarial training (``PGDTraining``, ``TradesTraining``) of the classifier alone, without noise or purifier.
    val_steps:
        Steps of PGD in validation with an objective, 0 for none.
    """

    def __init__(
        self,
        classifier: Classifier,
        noise_sigma: float = 0.0,
        purifier: nn.Module | None = None,
        num_classes: int = 10,
        recipe: Recipe | None = None,
        export: str | None = None,
        objective: Objective | None = None,
        val_steps: int = 10,
    ) -> None:
        super().__init__(recipe, export)
        check_part("classifier", classifier, Classifier)
        self.noise_sigma = check_noise_level("noise_sigma", noise_sigma, zero=True)
        check_optional(check_part, "purifier", purifier, nn.Module, "a purifier")
        check_size("num_classes", num_classes, 2)
        check_optional(check_function, "objective", objective)
        check_count("val_steps", val_steps, 0)
        if objective is not None and (noise_sigma or purifier is not None):
            raise ValueError("adversarial training takes clean images: remove noise_sigma and purifier")
        self.classifier, self.objective = classifier, objective
        self._purifier = (
            () if purifier is None else (purifier.requires_grad_(False).eval(),)
        )  # a tuple, so that it is no submodule
        self.num_classes = num_classes
        self.attack = validation_attack(val_steps) if objective is not None else None
        self.train_accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.val_accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.val_robust = None if self.attack is None else MulticlassAccuracy(num_classes, average="micro")

    @property
    def purifier(self) -> nn.Module | None:
        """The frozen purifier, or None."""
        return self._purifier[0] if self._purifier else None

    def trained(self) -> nn.Module:
        return self.classifier

    @property
    def classes(self) -> int:
        return self.num_classes

    def setup(self, stage: str) -> None:
        if self.purifier is not None:
            self.save_hyperparameters({"purifier_sha256": weights_hash(self.purifier)})

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        stored, own = (part.get("purifier_sha256") for part in (checkpoint.get("hyper_parameters", {}), self.hparams))
        if stored != own:
            raise ValueError(f"the checkpoint was trained behind another purifier, with sha256 {stored}; got {own}")

    def prepare(self, image: Tensor, noise: Noise) -> Tensor:
        """The training image: purified if there is a purifier, then with Gaussian noise if ``noise_sigma`` > 0."""
        if self.purifier is not None:
            with torch.no_grad():
                image = check_purified(self.purifier.to(image.device)(*copied(image, noise)), image)
        if self.noise_sigma:
            image = image + self.noise_sigma * noise.stream("augmentation").normal(0, image.shape[1:])
        return image

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        image, label, index = self.checked(batch)
        noise = self.noise(index)
        loss, logits = self.training_loss(image, label, noise, noise)
        self.log_training(loss, logits, label)
        return loss

    def training_loss(
        self, image: Tensor, label: Tensor, noise: Noise, adversary: Noise, label_smoothing: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Mean loss of a step, and its logits: the objective's under the noise ``adversary``, or cross-entropy."""
        if self.objective is not None:
            losses, logits = self.objective(self.classifier, image, label, adversary)
            return losses.mean(), logits
        logits = self.classifier(self.prepare(image, noise))
        return F.cross_entropy(logits, label, label_smoothing=label_smoothing), logits

    def log_training(self, loss: Tensor, logits: Tensor, label: Tensor) -> None:
        """Log ``train/loss`` of a step and ``train/accuracy`` of its epoch."""
        self.train_accuracy(logits, label)
        self.log("train/accuracy", self.train_accuracy, on_step=False, on_epoch=True, prog_bar=True)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(label))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        image, label, index = self.checked(batch)
        noise = Noise.of(self.recipe.seed, index).stream("validation")
        self.val_accuracy(self.classifier(self.prepare(image, noise)), label)
        self.log("val/accuracy", self.val_accuracy, on_step=False, on_epoch=True, prog_bar=True)
        if self.attack is None or self.objective is None or self.val_robust is None:
            return
        check_gradients()
        adv = self.attack(self.classifier, image, label, self.objective.threat, noise.stream("attack"))
        self.val_robust(self.classifier(adv), label)
        self.log("val/robust", self.val_robust, on_step=False, on_epoch=True, prog_bar=True)
