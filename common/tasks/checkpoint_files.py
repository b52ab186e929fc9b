"""Lightning's checkpoints, replaced as a whole."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import AsyncCheckpointIO, CheckpointIO, TorchCheckpointIO

from common.checkpoints.files import require_file
from common.checkpoints.formats import read_training_checkpoint
from common.files.errors import naming
from common.files.fallback import write_or_fallback
from common.files.replacing import remove_leftovers, replacing

SAVE = "save the checkpoint"
_HANDED_BACK = ".temp.ckpt"  # Lightning's name of the weights of a process that it started


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

    def load_checkpoint(self, path: str | Path, map_location: Any = None, weights_only: bool | None = None) -> Any:
        """Load a checkpoint, whichever way it was named (``last``, ``best``). Nothing in a local file is executed.

        Raises ``ValueError`` for a file that is damaged or holds code.
        """
        if "://" in str(path):
            return super().load_checkpoint(path, map_location, weights_only)
        handed_back = Path(path).name == _HANDED_BACK
        return read_training_checkpoint(require_file(path), map_location or "cpu", weights_alone=handed_back)


def with_checkpoint_files(plugins: list[Any]) -> list[Any]:
    """Plugins of a trainer that write checkpoints by `CheckpointFiles`, unless one of another kind is among them."""
    kept = [_whole(plugin) for plugin in plugins if type(plugin) is not TorchCheckpointIO]
    return kept if any(isinstance(plugin, CheckpointIO) for plugin in kept) else [*kept, CheckpointFiles()]


def _whole(plugin: Any) -> Any:
    plain = (TorchCheckpointIO, type(None))
    if type(plugin) is AsyncCheckpointIO and type(plugin.checkpoint_io) in plain:
        return AsyncCheckpointIO(CheckpointFiles())
    return plugin


def _save(content: Mapping[str, Any], path: Path) -> None:
    """``torch.save``; on a full disk with the system's ``OSError``, which torch replaces by one of its own."""
    with replacing(path, SAVE) as unfinished, unfinished.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):
                raise error.__context__ from error
            raise
