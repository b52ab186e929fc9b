"""DenoiserTask: train a denoiser by denoising score matching."""

import math

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from common.checks.settings import check_fraction, check_number, check_positive
from common.diffusion.denoisers import Denoiser, check_denoiser
from common.diffusion.denoising_loss import draw_sigma_lognormal, edm_loss
from common.noise import Noise
from common.robustness.evaluation.batches import Batch
from common.tasks.recipes import Recipe, TrainingRecipe
from common.tasks.training import TrainingTask
from common.units import to_model, to_pixel

LEVELS = (-1, 0, 1)  # of the logged images, in standard deviations of ln σ


class DenoiserTask(TrainingTask):
    """Train a denoiser D(x, σ, y) by denoising score matching with EDM's weighting (Karras et al., arXiv 2206.00364).

    ln σ ~ N(P_mean, P_std²), σ in the model frame. Labels are dropped with probability ``label_dropout``, so that one
    network is both conditional (NDC) and unconditional (DiffPure, AGDM, the first denoising of APNDC). Validation logs
    ``val/loss``.

    Parameters
    ----------
    denoiser:
        The denoiser; without classes (``num_classes`` None) labels are ignored.
    label_dropout:
        Probability in [0,1].
    p_mean, p_std:
        Mean and standard deviation of ln σ.
    recipe:
        Optimiser and its schedule, a ``Recipe`` by default.
    export:
        Safetensors file for the trained denoiser.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        label_dropout: float = 0.2,
        p_mean: float = -1.2,
        p_std: float = 1.2,
        recipe: Recipe | TrainingRecipe | None = None,  # YAML without class_path is a Recipe
        export: str | None = None,
    ) -> None:
        super().__init__(recipe, export)
        check_denoiser("denoiser", denoiser)
        check_fraction("label_dropout, a probability,", label_dropout)
        check_number("p_mean", p_mean)
        check_positive("p_std", p_std)
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

    def image_rows(self, batch: Batch) -> Tensor:
        """Clean images, then noisy and denoised ones at σ = exp(P_mean + k P_std), k = -1, 0, 1."""
        image, label, index = batch
        x0, known = to_model(image), None if self.denoiser.num_classes is None else label
        n = Noise.of(self.recipe.seed, index).stream("images").normal(0, x0.shape[1:], x0.dtype)
        rows = [image]
        for k in LEVELS:
            sigma = x0.new_full((len(x0),), math.exp(self.p_mean + k * self.p_std))
            x = x0 + sigma.view(-1, 1, 1, 1) * n
            with torch.no_grad():
                rows += [to_pixel(x), to_pixel(self.denoiser(x, sigma, known))]
        return torch.stack(rows)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self.loss(batch, self.noise(self.checked(batch)[2])).mean()
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch[0]))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        index = self.checked(batch)[2]
        self.val_loss(self.loss(batch, Noise.of(self.recipe.seed, index).stream("validation")))
        self.log("val/loss", self.val_loss, on_step=False, on_epoch=True, prog_bar=True)
