"""Checkpoint files: existence, size of their content, and sha256."""

import hashlib
import zipfile
from pathlib import Path
from typing import IO

from common.checks.bounds import check_bound

SMALL = 64 << 20  # bytes of content that any file may unpack to


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


def check_unpacked(file: Path | IO[bytes], source: str) -> None:
    """Raise `BoundError` if the content of a zip file, as torch writes them, is far larger than the file.

    Torch itself does not compress. Raises ``ValueError`` for another file.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise ValueError(f"truncated, without a central directory: {error}") from error
    packed = sum(entry.compress_size for entry in entries)
    size = file.stat().st_size if isinstance(file, Path) else file.seek(0, 2)
    check_bound("tensors", len(entries), source)
    check_bound("unpacked", sum(entry.file_size for entry in entries), source, unit=min(size, packed), allowed=SMALL)


def file_sha256(*paths: str | Path) -> str:
    """Hexadecimal sha256 of a file, or of several files one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with Path(path).open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()
