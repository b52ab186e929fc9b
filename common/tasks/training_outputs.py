"""Outputs of a training: tried and locked before it starts."""

from collections.abc import Iterator
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from common.checkpoints.saving import make_folder
from common.files.errors import naming
from common.files.locking import LOCK, lock, lock_of, unlock
from common.files.replacing import remove_leftovers
from common.files.trial import try_file


def try_export(module: nn.Module, export: str) -> None:
    """Make the folder of an export, and check that it has room for the weights of ``module``.

    Raises ``ValueError`` and ``OSError`` if it cannot be written.
    """
    path = Path(export).expanduser()
    make_folder(path)
    try_file(path, "save the weights", sum(weight.nbytes for weight in module.state_dict().values()))


def claim_outputs(trainer: L.Trainer, export: str | None) -> None:
    """Lock the export and the folders of checkpoints, which are made, and clean them of what killed processes left.

    Raises ``ValueError`` if another process writes to one of them.
    """
    if trainer.is_global_zero:
        for output, file in _locks(trainer, export):
            with naming("make the folder", file.parent):
                file.parent.mkdir(parents=True, exist_ok=True)
            lock(output, file)
            remove_leftovers(file.parent)


def release_outputs(trainer: L.Trainer, export: str | None) -> None:
    """Unlock the outputs."""
    for output, file in _locks(trainer, export):
        unlock(output, file)


def _locks(trainer: L.Trainer, export: str | None) -> Iterator[tuple[Path, Path]]:
    """Each output with its lock file."""
    if export is not None:
        path = Path(export).expanduser()
        yield path, lock_of(path)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        folder = callback.dirpath if isinstance(callback, ModelCheckpoint) else None
        if folder is not None and "://" not in str(folder):
            yield Path(folder), Path(folder) / LOCK
