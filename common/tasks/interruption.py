"""The end of a test, a prediction or a training by a signal: after the row, image or step in hand, and resumable."""

from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from torch.utils.data.distributed import DistributedSampler

from common.processes.counters import Counters
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
        INTERRUPTS.finished = True
        finish(trainer)


def end_if_interrupted(trainer: L.Trainer, module: L.LightningModule) -> None:
    """Between two steps of an epoch: if a signal came to any rank, save the state and end the command.

    All ranks call it, after all hooks of the same step.
    """
    if INTERRUPTS.active and any_rank_interrupted(trainer):
        _save_and_end(trainer, module, place(trainer))


def end_validation_if_interrupted(trainer: L.Trainer, module: L.LightningModule, batch_idx: int) -> None:
    """Between two batches of a validation within a training: as `end_if_interrupted`.

    The saved state is that of the first batch of the validation: a training that goes on from it begins with all of it.
    """
    fitting = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
    if not (fitting and INTERRUPTS.active and batch_idx < common_batches(trainer) and any_rank_interrupted(trainer)):
        return
    for part in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(part, WeightAveraging):
            part.on_validation_epoch_end(trainer, module)  # puts the weights that are trained back into the module
    progress = trainer.fit_loop.epoch_loop.val_loop.batch_progress
    progress.reset()
    for tracker in (progress.total, progress.current):
        vars(tracker).update(ready=1, started=1)
    _save_and_end(trainer, module, f" in the validation after{place(trainer).removeprefix(' in')}")


def common_batches(trainer: L.Trainer) -> float:
    """A number of validation batches that every rank has at least; 0 where it is not known of several ranks."""
    if trainer.world_size == 1:
        return float("inf")
    loader, limit = trainer.val_dataloaders, trainer.limit_val_batches
    sampler, size = getattr(loader, "sampler", None), getattr(loader, "batch_size", None)
    if not isinstance(sampler, DistributedSampler) or not isinstance(size, int):
        return 0
    batches = -(-(len(sampler.dataset) // trainer.world_size) // size)  # type: ignore[arg-type]
    return int(batches * limit) if isinstance(limit, float) else min(batches, limit or 0)


def _save_and_end(trainer: L.Trainer, module: L.LightningModule, where: str) -> None:
    path = interrupted_checkpoint(trainer, module)
    if path is None:
        advice = "; nothing was saved: give model.init_args.export, or a ModelCheckpoint with its dirpath"
    else:
        with INTERRUPTS.patiently():
            trainer.save_checkpoint(path)
        advice = f"; the same command with --ckpt_path {path} goes on"
    INTERRUPTS.progress = lambda: where + advice
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
        CURRENT.counters = Counters(trainer.global_rank, address, trainer.strategy.broadcast)
        CURRENT.run = run


def finish(trainer: L.Trainer) -> None:
    """At the end of a command: the first rank waits for the others, without a collective; they end before it."""
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
