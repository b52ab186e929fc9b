"""Training and fine-tuning of classifiers."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from common.noise import Noise
from common.records.fingerprint import weights_hash
from common.robustness.adversarial_training import Objective
from common.robustness.classifiers import Classifier
from common.tasks.training import Batch, Recipe, TrainingTask, check_gradients, robust_validation


class ClassifierTask(TrainingTask):
    """Train or fine-tune a classifier by cross-entropy, or adversarially.

    Validation logs ``val/accuracy`` and, with an ``objective``, ``val/robust``: accuracy under PGD of its threat.

    Parameters
    ----------
    classifier:
        Any deterministic :class:`Classifier`: one of our networks or any of timm's behind ``NetworkClassifier``.
    noise_sigma:
        Gaussian noise of this standard deviation (pixels) on every training image, the recipe of randomised smoothing
        (Cohen et al., arXiv 1902.02918).
    purifier:
        Fine-tune on what this frozen purifier makes of the images; one fresh purification per image and epoch. It is
        no part of the module's state: checkpoints know it by its hash.
    objective:
        Adversarial training (``PGDTraining``, ``TradesTraining``) of the classifier alone, on the images as they are.
    val_steps:
        steps of validation's PGD where there is an objective, 0 for none.
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
        if noise_sigma < 0:
            raise ValueError(f"noise_sigma must be >= 0, in pixel units; got {noise_sigma}")
        if objective is not None and (noise_sigma or purifier is not None):
            raise ValueError("adversarial training sees the images as they are: leave noise_sigma and purifier out")
        self.classifier, self.noise_sigma, self.objective = classifier, noise_sigma, objective
        self._purifier = () if purifier is None else (purifier.requires_grad_(False).eval(),)  # not registered
        self.num_classes = num_classes
        self.attack = robust_validation(val_steps) if objective is not None else None
        self.train_accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.val_accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.val_robust = None if self.attack is None else MulticlassAccuracy(num_classes, average="micro")

    @property
    def purifier(self) -> nn.Module | None:
        """The frozen purifier, if there is one."""
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
            raise ValueError(f"the checkpoint was trained behind another purifier: {stored}, here {own}")

    def prepare(self, image: Tensor, noise: Noise) -> Tensor:
        """The image as training shows it: purified, then noisy, if so configured."""
        if self.purifier is not None:
            with torch.no_grad():
                image = self.purifier.to(image.device)(image, noise)
        if self.noise_sigma:
            image = image + self.noise_sigma * noise.stream("augmentation").normal(0, image.shape[1:])
        return image

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        image, label, index = self.checked(batch)
        noise = self.noise(index)
        if self.objective is not None:
            losses, logits = self.objective(self.classifier, image, label, noise)
            loss = losses.mean()
        else:
            logits = self.classifier(self.prepare(image, noise))
            loss = F.cross_entropy(logits, label)
        self.train_accuracy(logits, label)
        self.log("train/accuracy", self.train_accuracy, on_step=False, on_epoch=True, prog_bar=True)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(image))
        return loss

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
