"""OpenEndedDenoiserTask: train a denoiser without a planned end; averaging of its weights."""

from typing import Any

import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor

from common.checks.settings import check_not_negative
from common.data.augmentation import Augmentation
from common.diffusion.denoisers import Denoiser
from common.robustness.evaluation.batches import Batch
from common.tasks.denoiser import DenoiserTask
from common.tasks.recipes import OpenEndedRecipe


class OpenEndedDenoiserTask(DenoiserTask):
    """Train a denoiser in a run that may be stopped, exported and resumed at any step.

    The learning rate is independent of the length of the run, and every image is flipped in every second epoch. With
    ``PowerAveraging`` the averaged weights of every checkpoint approximate those of a run planned to end there. The
    objective is that of ``DenoiserTask``, with other defaults.

    Parameters
    ----------
    denoiser, label_dropout, p_mean, p_std, export:
        As in ``DenoiserTask``.
    recipe:
        Settings of AdamW and of its schedule.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        label_dropout: float = 0.15,
        p_mean: float = -0.9,
        p_std: float = 1.0,
        recipe: OpenEndedRecipe | None = None,
        export: str | None = None,
    ) -> None:
        super().__init__(
            denoiser, label_dropout, p_mean, p_std, OpenEndedRecipe() if recipe is None else recipe, export
        )
        self.augmentation = Augmentation(shift=0, mirroring="alternating")

    def setup(self, stage: str) -> None:
        super().setup(stage)
        self.denoiser.to(memory_format=torch.channels_last)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        image, label, index = batch
        return super().training_step((self.augmentation(image, self.noise(index)), label, index), batch_idx)


class PowerAveraging(WeightAveraging):
    """Mean of the weights after each step, step t weighted by t^``power``: about the last 1/(power + 1) of the run.

    An exponential average has a fixed length, too long early in a run and too short late; the length of this one grows
    with the run (Karras et al., arXiv 2312.02696). Validation and export use the averaged weights. Raises
    ``ValueError`` for a power that is negative or not finite.
    """

    def __init__(self, power: float = 9.0) -> None:
        check_not_negative("power", power)

        @torch.no_grad()
        def average(averaged: Any, current: Any, updates: Tensor | int) -> None:
            decay = (1 - 1 / (int(updates) + 1)) ** (power + 1)
            torch._foreach_lerp_(averaged, current, 1 - decay)

        super().__init__(multi_avg_fn=average)
