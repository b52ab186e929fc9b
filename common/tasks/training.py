"""TrainingTask: optimiser, reproducible noise, batch checks and export of the tasks that train a network."""

import warnings
from pathlib import Path
from typing import Any, TypeGuard

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from common.checkpoints.saving import description_of, save
from common.checkpoints.state import list_names
from common.checks.images import check_class_count, check_classes
from common.checks.settings import check_optional, check_text
from common.files.fallback import write_or_fallback
from common.noise import Noise
from common.processes.interrupts import INTERRUPTS
from common.robustness.attacks.pgd import PGD
from common.robustness.evaluation.batches import Batch, check_batch
from common.tasks.effective_batch import tell_effective_batch
from common.tasks.interruption import end_if_interrupted, end_validation_if_interrupted, validates_next
from common.tasks.recipes import Recipe, TrainingRecipe, check_recipe
from common.tasks.recording import declared_classes
from common.tasks.training_outputs import claim_outputs, release_outputs, try_export


class TrainingTask(L.LightningModule):
    """Base class of the tasks that train a network: a recipe, reproducible noise, and an export at the end.

    ``export`` names the ``.safetensors`` file that :meth:`trained` is written to when ``fit`` ends; ``load_denoiser``,
    ``load_classifier`` or ``load_network`` read it. Its weights are the last ones, except with these callbacks:

    * weight averaging (``EMAWeightAveraging``): the averaged weights, which validation uses too;
    * ``ModelCheckpoint(monitor=...)``: the weights of the best epoch, averaged if validation was, which the module
      keeps too. Adversarial training over-fits, and its last epoch is rarely its best (Rice et al., arXiv 2002.11569).
      ``EarlyStopping`` ends such a run. If the best epoch's file is missing at the end, the last weights are exported,
      with a warning.

    Modules of this project with plain arguments can be exported, and timm's networks inside them. Any other module is
    refused before the first step: train it without ``export``, and take its weights from Lightning's checkpoint.

    A training that diverges ends with ``ValueError`` at the next checkpoint or end of an epoch: weights that are NaN or
    infinite are neither exported nor written over the last finite checkpoint, which the message names.

    A killed run resumes from its last checkpoint (``--ckpt_path``) bit for bit: noise and order depend on the seed and
    the epoch alone, and the data modules of this project resume in the middle of an epoch.
    """

    def __init__(self, recipe: TrainingRecipe | None, export: str | None) -> None:
        super().__init__()
        check_optional(check_recipe, "recipe", recipe)
        if check_optional(check_text, "export", export) is not None and Path(str(export)).suffix != ".safetensors":
            raise ValueError(f"export must name a .safetensors file; got {export!r}")
        self.recipe: TrainingRecipe = recipe or Recipe()
        self.export = export

    def trained(self) -> nn.Module:
        """The module that is trained and exported."""
        raise NotImplementedError

    def configure_optimizers(self) -> OptimizerLRScheduler:
        parameters = [p for p in self.trained().parameters() if p.requires_grad]
        if not parameters:
            raise ValueError(
                f"there must be parameters to train; all of this {type(self.trained()).__name__} are frozen: guidance "
                "freezes its network. Call its requires_grad_(True), or load it again"
            )
        steps = max(1, int(self.trainer.estimated_stepping_batches))
        optimizer = self.recipe.optimizer(parameters)
        schedule = LambdaLR(optimizer, lambda step: self.recipe.factor(step, steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def checked(self, batch: Batch) -> Batch:
        """Check a batch: shapes, pixels in [0,1], labels, indices. Raises ``ValueError``."""
        image, label, index = check_batch(batch)
        if (classes := self.classes) is not None:
            check_classes(label, classes)
        return image, label, index

    @property
    def classes(self) -> int | None:
        """Number of classes, or None if labels are not checked."""
        return None

    def image_rows(self, batch: Batch) -> Tensor | None:
        """Images of the training's state for a few validation images, rows (R,B,C,H,W) in pixels; None for none.

        They are logged at each validation (`common.tasks.logged_images`), with the same noise every time.
        """
        return None

    def noise(self, index: Tensor) -> Noise:
        """The noise of each image in this epoch, whichever rank draws it."""
        return Noise(self.recipe.seed, index, torch.full_like(index, self.current_epoch))

    def on_fit_start(self) -> None:
        if self.export is not None:
            description_of(self.trained())  # both raise before training
            try_export(self.trained(), self.export)
        claim_outputs(self.trainer, self.export)
        if self.classes is not None:
            check_class_count(declared_classes(self.trainer), self.classes, "the network to train")
        if not self.trained().training:  # loaded networks are in evaluation mode, which Lightning keeps
            self.trained().train()
        averaging = any(isinstance(part, WeightAveraging) for part in _callbacks(self.trainer))
        if averaging and (best := _best_checkpoint(self.trainer)) is not None and best.save_weights_only:
            raise ValueError(
                "ModelCheckpoint(save_weights_only=True) saves the weights before averaging, not the validated ones. "
                "Remove save_weights_only, or the weight averaging"
            )

    def on_train_start(self) -> None:
        tell_effective_batch(self.trainer)

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if not validates_next(self.trainer, batch_idx):
            end_if_interrupted(self.trainer, self)

    def on_validation_start(self) -> None:
        self._check_weights()
        loop = self.trainer.fit_loop.epoch_loop.val_loop
        if loop.restarted_mid_evaluation:  # its first batch was counted before the interruption
            loop.batch_progress.total.reset_on_restart()

    def on_validation_batch_end(self, outputs: Any, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        end_validation_if_interrupted(self.trainer, self, batch_idx)

    def on_train_epoch_end(self) -> None:
        self._check_weights()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._check_weights()

    def _check_weights(self) -> None:
        """Raise ``ValueError`` if weights are not finite."""
        bad = [name for name, value in self.trained().state_dict().items() if not torch.isfinite(value).all()]
        if not bad:
            return
        paths = [part.last_model_path or part.best_model_path for part in _callbacks(self.trainer) if _saves(part)]
        last = next((path for path in paths if path and Path(path).is_file()), None)
        kept = f"The last finite checkpoint is {last}" if last else "There is no earlier checkpoint"
        raise ValueError(
            f"training diverged: NaN or infinity in {list_names(bad)} in epoch {self.current_epoch}, step "
            f"{self.global_step}. They are neither saved nor exported. {kept}. Lower the learning rate, or clip "
            "gradients"
        )

    def on_train_end(self) -> None:
        if self.export is not None:
            with INTERRUPTS.patiently():
                self._save(self.export)
        release_outputs(self.trainer, self.export)

    def _save(self, export: str) -> None:
        """Export the weights, those of the best epoch if there is one."""
        checkpoint, notes = _best_checkpoint(self.trainer), {}
        if checkpoint is not None and checkpoint.best_model_path:
            path = Path(checkpoint.best_model_path)
            if path.is_file():
                best = torch.load(path, map_location=self.device, weights_only=True)
                self.load_state_dict(best["state_dict"])
                notes = {"epoch": best["epoch"], str(checkpoint.monitor): float(checkpoint.best_model_score or 0)}
            else:
                warnings.warn(f"no checkpoint of the best epoch, {path}: exporting the last weights", stacklevel=2)
        if self.trainer.is_global_zero:
            write_or_fallback(Path(export).expanduser(), lambda path: save(self.trained(), path, notes))


def validation_attack(steps: int) -> PGD | None:
    """PGD for robust validation, or None for 0 steps. Raises ``ValueError`` for a negative number."""
    if steps < 0:
        raise ValueError(f"val_steps must be >= 0, 0 for no robust validation; got {steps}")
    return PGD(steps=steps) if steps else None


def check_gradients() -> None:
    """Raise ``ValueError`` in inference mode, which forbids the gradients of robust validation."""
    if torch.is_inference_mode_enabled():
        raise ValueError("robust validation needs gradients: use Trainer(inference_mode=False), or val_steps=0")


def _callbacks(trainer: L.Trainer) -> list[L.Callback]:
    return trainer.callbacks  # type: ignore[attr-defined, no-any-return]


def _saves(part: L.Callback) -> TypeGuard[ModelCheckpoint]:
    return isinstance(part, ModelCheckpoint)


def _best_checkpoint(trainer: L.Trainer) -> ModelCheckpoint | None:
    """The callback that saves the best epoch, if there is one."""
    monitors = (part for part in _callbacks(trainer) if isinstance(part, ModelCheckpoint) and part.monitor is not None)
    return next(monitors, None)
