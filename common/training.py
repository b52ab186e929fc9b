"""What the trained tasks share: how they optimise, where their noise comes from, what they check and write."""

import math
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from common.checkpoints import save
from common.noise import Noise
from common.robustness.batches import check_batch, check_labels

Batch = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Recipe:
    """How the trained tasks optimise: AdamW; the learning rate rises linearly over the first ``warmup`` share of the
    steps to ``lr`` and follows a cosine to zero. ``seed`` is that of the training noise."""

    lr: float = 2e-3
    weight_decay: float = 1e-4
    warmup: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.lr <= 0 or self.weight_decay < 0 or not 0 <= self.warmup < 1:
            raise ValueError(f"a recipe needs lr > 0, weight_decay >= 0 and 0 <= warmup < 1; got {self}")


class TrainingTask(L.LightningModule):
    """What the trained tasks share: the recipe, reproducible noise, and an export when training ends.

    ``export`` names a ``.safetensors`` file that :meth:`trained` is written to when ``fit`` ends, with averaged weights
    where a weight-averaging callback runs; ``load_denoiser``, ``load_classifier`` or ``load_network`` read it back.
    """

    def __init__(self, recipe: Recipe | None, export: str | None) -> None:
        super().__init__()
        if export is not None and Path(export).suffix != ".safetensors":
            raise ValueError(f"export must name a .safetensors file; got {export!r}")
        self.recipe, self.export = recipe or Recipe(), export

    def trained(self) -> nn.Module:
        """The part that is trained, and that ``export`` writes."""
        raise NotImplementedError

    def configure_optimizers(self) -> OptimizerLRScheduler:
        parameters = [p for p in self.trained().parameters() if p.requires_grad]
        optimizer = AdamW(parameters, lr=self.recipe.lr, weight_decay=self.recipe.weight_decay)
        steps = max(1, int(self.trainer.estimated_stepping_batches))
        rise = max(1, round(self.recipe.warmup * steps))

        def factor(step: int) -> float:
            if step < rise:
                return (step + 1) / rise
            return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rise) / max(1, steps - rise))))

        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}

    def checked(self, batch: Batch) -> Batch:
        """The batch, checked where it enters: shapes, [0,1], labels, the index. Raises ``ValueError``."""
        image, label, index = check_batch(batch)
        if (classes := self.classes) is not None:
            check_labels(label, classes)
        return image, label, index

    @property
    def classes(self) -> int | None:
        """How many classes there are, if the task knows."""
        return None

    def noise(self, index: Tensor) -> Noise:
        """This epoch's noise of each image: resuming continues it, and ranks never share it."""
        return Noise(self.recipe.seed, index, torch.full_like(index, self.current_epoch))

    def on_train_end(self) -> None:
        if self.export is not None and self.trainer.is_global_zero:
            save(self.trained(), self.export)
