"""What the trained tasks share: how they optimise, where their noise comes from, what they check and write."""

import math
import warnings
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from common.checkpoints.loading import description_of, save
from common.noise import Noise
from common.robustness.attacks.pgd import PGD
from common.robustness.evaluation.batches import check_batch, check_labels

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
        if not (0 < self.lr < math.inf and 0 <= self.weight_decay < math.inf and 0 <= self.warmup < 1):
            raise ValueError(f"a recipe needs finite lr > 0 and weight_decay >= 0, and 0 <= warmup < 1; got {self}")


class TrainingTask(L.LightningModule):
    """What the trained tasks share: the recipe, reproducible noise, and an export when training ends.

    ``export`` names a ``.safetensors`` file that :meth:`trained` is written to when ``fit`` ends; ``load_denoiser``,
    ``load_classifier`` or ``load_network`` read it back. Its weights are the last ones, or

    * the averaged ones, where a weight-averaging callback runs (``EMAWeightAveraging``), which validation sees too;
    * those of the best epoch, where a ``ModelCheckpoint(monitor=...)`` keeps it: averaged if those were validated. The
      module itself is left with them. Adversarial training over-fits, and its last epoch is rarely its best (Rice et
      al., arXiv 2002.11569). ``EarlyStopping`` beside it ends the run.

    What can be exported is what ``common.checkpoints.save`` describes: modules of this project made with plain
    arguments, and timm's inside them. Any other is refused before the first step: train it without ``export``, and take
    its weights from Lightning's checkpoint. If the best epoch's file is gone at the end, the last weights are written,
    with a warning.

    A run that was killed goes on bit for bit from its last checkpoint (``--ckpt_path``): noise and order are functions
    of the epoch, and a data module of ours goes on in the middle of one.
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
        if not parameters:
            raise ValueError(
                f"there must be parameters to train; all of this {type(self.trained()).__name__} are frozen, as those "
                "of a network that guided are. Call its requires_grad_(True), or load it again."
            )
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

    def on_fit_start(self) -> None:
        if self.export is not None:
            description_of(self.trained())  # refuses now what could not be written at the end
        if not self.trained().training:  # as weights come from a file; Lightning leaves modes alone
            self.trained().train()
        averaging = any(isinstance(part, WeightAveraging) for part in _callbacks(self.trainer))
        if averaging and (keeper := _keeper(self.trainer)) is not None and keeper.save_weights_only:
            raise ValueError(
                "ModelCheckpoint(save_weights_only=True) keeps the weights that were not averaged, which were not "
                "validated. Leave save_weights_only out, or the weight averaging."
            )

    def on_train_end(self) -> None:
        if self.export is None:
            return
        keeper, notes = _keeper(self.trainer), {}
        if keeper is not None and keeper.best_model_path and not Path(keeper.best_model_path).is_file():
            warnings.warn(
                f"the best epoch's checkpoint {keeper.best_model_path} is gone: the last weights are exported instead",
                stacklevel=2,
            )
        elif keeper is not None and keeper.best_model_path:
            best = torch.load(keeper.best_model_path, map_location=self.device, weights_only=True)
            self.load_state_dict(best["state_dict"])
            notes = {"epoch": best["epoch"], str(keeper.monitor): float(keeper.best_model_score or 0)}
        if self.trainer.is_global_zero:
            save(self.trained(), self.export, notes)


def robust_validation(steps: int) -> PGD | None:
    """PGD of so many steps for validation, None for 0; ``ValueError`` for less."""
    if steps < 0:
        raise ValueError(f"val_steps must be >= 0, 0 for no robust validation; got {steps}")
    return PGD(steps=steps) if steps else None


def check_gradients() -> None:
    """``ValueError`` where inference mode would keep an attack from its gradients."""
    if torch.is_inference_mode_enabled():
        raise ValueError("robust validation needs gradients: use Trainer(inference_mode=False), or val_steps=0")


def _callbacks(trainer: L.Trainer) -> list[L.Callback]:
    return trainer.callbacks  # type: ignore[attr-defined, no-any-return]


def _keeper(trainer: L.Trainer) -> ModelCheckpoint | None:
    """The callback that keeps the best epoch, if there is one."""
    kept = (part for part in _callbacks(trainer) if isinstance(part, ModelCheckpoint) and part.monitor is not None)
    return next(kept, None)
