"""The end of a test, a prediction or a training by a signal: after the row, image or step in hand, and resumable."""

from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

from common.processes.interrupts import GRACE, INTERRUPTS, Interrupted
from common.processes.ranks import CURRENT, Ranks

FILE = "last-interrupted.ckpt"  # Lightning takes files that begin with "last" for --ckpt_path last
SHARED = "runs"  # default folder of the command line, which many runs share


class Interruptible(L.Callback):
    """End the command at a signal, after the batch in hand; `RobustTask` and `TrainingTask` look more closely.

    Lightning's own handler, which it installs at every start, broadcasts to all ranks from inside the handler and
    ends with exit status 0; this callback installs ours over it.
    """

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        connect(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if isinstance(exception, Interrupted) and (launcher := trainer.strategy.launcher) is not None:
            launcher.kill(exception.signum)
            with INTERRUPTS.patiently():
                for process in getattr(launcher, "procs", []):
                    if isinstance(process, BaseProcess):  # forked: this process only waits for its ranks
                        process.join(GRACE)

    def on_sanity_check_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        INTERRUPTS.install()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        INTERRUPTS.install()
        INTERRUPTS.defer()
        INTERRUPTS.progress = lambda: place(trainer) + last_saved(trainer)

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

    on_predict_start = on_test_start

    def on_predict_batch_start(self, *_: Any) -> None:
        self.on_test_batch_start()

    def on_predict_batch_end(self, *_: Any) -> None:
        self.on_test_batch_end()

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
    if path is None:
        advice = "; nothing was saved: give model.init_args.export, or a ModelCheckpoint with its dirpath"
    else:
        with INTERRUPTS.patiently():
            trainer.save_checkpoint(path)
        advice = f"; the same command with --ckpt_path {path} goes on"
    INTERRUPTS.progress = lambda: place(trainer) + advice
    INTERRUPTS.check()


def validates_next(trainer: L.Trainer, batch_idx: int) -> bool:
    """True after the last step of an epoch, and where a validation follows: a state saved here would leave it out."""
    done = batch_idx + 1
    if trainer.check_val_every_n_epoch is None:
        done += trainer.current_epoch * int(trainer.num_training_batches)
    return trainer.is_last_batch or (trainer.enable_validation and done % (trainer.val_check_batch or 1) == 0)


def place(trainer: L.Trainer) -> str:
    """Epoch and step of a training."""
    return f" in epoch {trainer.current_epoch}, step {trainer.global_step}"


def last_saved(trainer: L.Trainer) -> str:
    """The last checkpoint of a training, for the line of its end."""
    callbacks = [part for part in trainer.checkpoint_callbacks if isinstance(part, ModelCheckpoint)]
    paths = [path for part in callbacks for path in (part.last_model_path, part.best_model_path) if path]
    return f"; the last checkpoint is {paths[0]}" if paths else "; nothing was saved"


def connect(trainer: L.Trainer) -> None:
    """Connect the ranks of this run; all of them call it at the same place, before or after others of its start."""
    run = (id(trainer), trainer.state.fn)
    if trainer.world_size > 1 and (CURRENT.ranks is None or CURRENT.run != run):
        address = trainer.strategy.cluster_environment.main_address  # type: ignore[attr-defined]
        CURRENT.ranks = Ranks(trainer.global_rank, trainer.world_size, address, trainer.strategy.broadcast)
        CURRENT.run = run


def finish(trainer: L.Trainer) -> None:
    """At the end of a test or a prediction: the first rank waits for the others, without a collective."""
    if trainer.world_size > 1 and CURRENT.ranks is not None:
        CURRENT.ranks.finish()


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
