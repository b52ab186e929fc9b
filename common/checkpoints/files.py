"""Checkpoint files: existence and sha256."""

import hashlib
from pathlib import Path


def require_file(path: str | Path) -> Path:
    """The expanded path of a checkpoint. Raises ``FileNotFoundError``, and ``ValueError`` for a web page."""
    path = Path(path).expanduser()
    if path.is_dir():
        raise FileNotFoundError(f"a checkpoint is a file; {path} is a folder. Name the file in it.")
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no checkpoint {path} (from {Path.cwd()}). Check the path, or train or fetch it."
        )
    with path.open("rb") as file:
        if file.read(64).lstrip()[:1] == b"<":
            raise ValueError(f"{path} must be a checkpoint and is a web page: its download failed. Fetch it again.")
    return path


def file_sha256(*paths: str | Path) -> str:
    """Hexadecimal sha256 of a file, or of several files one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with Path(path).open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()
