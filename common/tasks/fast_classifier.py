"""FastClassifierTask: train a classifier within a few epochs."""

import math

import torch
from torch import Tensor

from common.checks.settings import check_number, check_optional, check_part
from common.data.augmentation import Augmentation
from common.networks.whitened_conv_net import WhitenedConvNet
from common.robustness.adversarial_training import Objective
from common.robustness.classifiers import Classifier
from common.robustness.evaluation.batches import Batch
from common.tasks.classifier import ClassifierTask
from common.tasks.recipes import MuonRecipe, check_recipe

WHITENING_IMAGES = 2000
"""Largest number of training images for the statistics of the whitening layer."""


class FastClassifierTask(ClassifierTask):
    """Train a classifier in a few epochs, by cross-entropy or adversarially: `Muon`, augmented images, smoothed labels.

    The first layer of a ``WhitenedConvNet`` is computed from training images before the first step. Validation,
    export and resuming are those of ``ClassifierTask``.

    Parameters
    ----------
    classifier:
        A deterministic :class:`Classifier`, for instance a ``WhitenedConvNet`` behind ``NetworkClassifier``.
    augmentation:
        Shifts and flips of training images.
    label_smoothing:
        Share of each label's weight that is spread over all classes, in [0,1); not used by an objective.
    num_classes, export, noise_sigma, val_steps:
        As in ``ClassifierTask``.
    objective:
        Adversarial training on the augmented images, in place of cross-entropy. ``PGDTraining`` with one step is the
        single-step training of Wong et al. (arXiv 2001.03994): it can collapse to a classifier that only withstands
        that step (catastrophic overfitting), which ``val/robust``, accuracy under PGD on held-out images, shows.
    recipe:
        Settings of `Muon`.
    """

    def __init__(
        self,
        classifier: Classifier,
        augmentation: Augmentation | None = None,
        label_smoothing: float = 0.2,
        num_classes: int = 10,
        recipe: MuonRecipe | None = None,
        export: str | None = None,
        objective: Objective | None = None,
        val_steps: int = 10,
        noise_sigma: float = 0.0,
    ) -> None:
        super().__init__(
            classifier,
            noise_sigma,
            num_classes=num_classes,
            export=export,
            objective=objective,
            val_steps=val_steps,
        )
        check_number("label_smoothing", label_smoothing, at_least=0, below=1)
        check_optional(check_part, "augmentation", augmentation, Augmentation)
        check_optional(check_recipe, "recipe", recipe)
        self.recipe = recipe or MuonRecipe()
        self.augmentation, self.label_smoothing = augmentation or Augmentation(), label_smoothing

    def setup(self, stage: str) -> None:
        super().setup(stage)
        networks = [module for module in self.classifier.modules() if isinstance(module, WhitenedConvNet)]
        if stage == "fit" and networks:
            images = self.trainer.datamodule.train  # type: ignore[attr-defined]
            chosen = range(0, len(images), math.ceil(len(images) / WHITENING_IMAGES))
            first = torch.stack([images[i][0] for i in chosen])
            for network in networks:
                network.whiten(first)
                network.to(memory_format=torch.channels_last)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        image, label, index = self.checked(batch)
        noise = self.noise(index)
        image = self.augmentation(image, noise)
        loss, logits = self.training_loss(image, label, noise, noise.stream("adversary"), self.label_smoothing)
        self.log_training(loss, logits, label)
        return loss
