"""The end of a test, a prediction or a training by a signal: after the row, image or step in hand, and resumable."""

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

from common.processes.interrupts import INTERRUPTS

FILE = "last-interrupted.ckpt"  # Lightning takes files that begin with "last" for --ckpt_path last
SHARED = "runs"  # default folder of the command line, which many runs share


class Interruptible(L.Callback):
    """End the command at a signal, after the batch in hand; `RobustTask` and `TrainingTask` look more closely.

    Lightning's own handler, which it installs at every start, broadcasts to all ranks from inside the handler and
    ends with exit status 0; this callback installs ours over it.
    """

    def on_sanity_check_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        INTERRUPTS.install()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        INTERRUPTS.install()
        INTERRUPTS.defer()
        INTERRUPTS.progress = lambda: f" in epoch {trainer.current_epoch}, step {trainer.global_step}; it was not saved"

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == TrainerFn.VALIDATING:
            INTERRUPTS.install()

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        INTERRUPTS.install()

    def on_test_batch_start(self, *_: Any) -> None:
        INTERRUPTS.defer()
        INTERRUPTS.check()

    def on_test_batch_end(self, *_: Any) -> None:
        INTERRUPTS.check()

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        INTERRUPTS.install()

    def on_predict_batch_start(self, *_: Any) -> None:
        INTERRUPTS.defer()
        INTERRUPTS.check()

    def on_predict_batch_end(self, *_: Any) -> None:
        INTERRUPTS.check()

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero and (path := interrupted_checkpoint(trainer, pl_module)) is not None:
            path.unlink(missing_ok=True)


def end_if_interrupted(trainer: L.Trainer, module: L.LightningModule) -> None:
    """Between two steps of an epoch: if a signal came to any rank, save the state and end the command.

    All ranks call it, after all hooks of the same step.
    """
    if not INTERRUPTS.active or not any_rank_interrupted(trainer):
        return
    path = interrupted_checkpoint(trainer, module)
    place = f" in epoch {trainer.current_epoch}, step {trainer.global_step}"
    if path is None:
        advice = "; nothing was saved: give model.init_args.export, or a ModelCheckpoint with its dirpath"
    else:
        with INTERRUPTS.writing():
            trainer.save_checkpoint(path)
        advice = f"; the same command with --ckpt_path {path} goes on"
    INTERRUPTS.progress = lambda: place + advice
    INTERRUPTS.check()


def validates_next(trainer: L.Trainer, batch_idx: int) -> bool:
    """True after the last step of an epoch, and where a validation follows: a state saved here would leave it out."""
    done = batch_idx + 1
    if trainer.check_val_every_n_epoch is None:
        done += trainer.current_epoch * int(trainer.num_training_batches)
    return trainer.is_last_batch or (trainer.enable_validation and done % (trainer.val_check_batch or 1) == 0)


def any_rank_interrupted(trainer: L.Trainer) -> bool:
    """True on every rank if one of them received a signal."""
    received = INTERRUPTS.received is not None
    return received if trainer.world_size == 1 else trainer.strategy.reduce_boolean_decision(received, all=False)


def interrupted_checkpoint(trainer: L.Trainer, module: L.LightningModule) -> Path | None:
    """File of a training's state when a signal ends it: of its own run, beside its export if there is one.

    Else in the folder of its ``ModelCheckpoint``, or in a ``default_root_dir`` that is not the shared default.
    """
    if isinstance(export := getattr(module, "export", None), str):
        return Path(export).expanduser().with_suffix(f".{FILE}")
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    folders = [part.dirpath for part in callbacks if isinstance(part, ModelCheckpoint) and part.dirpath is not None]
    if not folders and Path(trainer.default_root_dir).resolve() != Path(SHARED).resolve():
        folders = [trainer.default_root_dir]
    return Path(folders[0]) / FILE if folders else None
