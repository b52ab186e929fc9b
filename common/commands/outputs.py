"""Outputs of Lightning's commands, tried before anything is loaded."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeGuard

from common.files.trial import try_file, try_folder


def try_outputs(command: str, config: Mapping[str, Any]) -> None:
    """Check that all places that a command will write to can be written to. Raises `FileError`.

    These are the export of a training, the records of a test, the folder of predictions, the folders of checkpoints,
    and the folder of logs.
    """
    arguments = (config.get("model") or {}).get("init_args") or {}
    export, records, out = arguments.get("export"), arguments.get("records"), config.get("out")
    if command == "fit" and isinstance(export, str):
        try_file(export, "save the weights")
    for folder in _checkpoint_folders(config.get("trainer") or {}) if command == "fit" else ():
        try_folder(folder, "save checkpoints in")
    if command == "test" and _is_free(records):
        try_folder(records, "write records to")
    if command == "predict" and _is_free(out):
        try_folder(out, "write predictions to")
    root = (config.get("trainer") or {}).get("default_root_dir")
    if isinstance(root, str | Path) and "://" not in str(root):
        try_folder(root, "write the configuration and logs to")


def _is_free(path: Any) -> TypeGuard[str]:
    """True of the path of a folder; that a file has the name is reported later, with the remedy."""
    return isinstance(path, str) and not Path(path).expanduser().is_file()


def _checkpoint_folders(trainer: Mapping[str, Any]) -> Iterator[str | Path]:
    """The folders that callbacks of a training's configuration name."""
    callbacks = trainer.get("callbacks") or []
    for callback in callbacks if isinstance(callbacks, list) else [callbacks]:
        folder = (getattr(callback, "init_args", None) or {}).get("dirpath")
        if isinstance(folder, str | Path) and "://" not in str(folder):
            yield folder
