"""Lightning's checkpoints, replaced as a whole."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from common.files.errors import naming
from common.files.fallback import write_or_fallback
from common.files.replacing import remove_leftovers, replacing

SAVE = "save the checkpoint"


class CheckpointFiles(TorchCheckpointIO):
    """Checkpoints written beside the file that they replace, and then renamed.

    Lightning's own class writes them to the system's temporary folder; if that is another file system, the old
    checkpoint is gone before the new one is complete. Paths of remote file systems (``s3://…``) are left to it.
    """

    def __init__(self) -> None:
        self._folders: set[Path] = set()  # without leftovers of earlier runs

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Save a checkpoint. Raises `FileError` if it cannot be written, with the file that holds it in its place.

        The earlier checkpoint is then unchanged.
        """
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        with naming(SAVE, path):
            path.parent.mkdir(parents=True, exist_ok=True)
        if path.parent not in self._folders:
            remove_leftovers(path.parent)
            self._folders.add(path.parent)
        write_or_fallback(path, lambda place: _save(checkpoint, place))


def _save(content: Mapping[str, Any], path: Path) -> None:
    """``torch.save``; on a full disk with the system's ``OSError``, which torch replaces by one of its own."""
    with replacing(path, SAVE) as unfinished, unfinished.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):
                raise error.__context__ from error
            raise
