"""Trial of an output before the work begins."""

import errno
import os
import shutil
from pathlib import Path

from common.files.errors import naming
from common.files.replacing import remove_leftovers, unfinished_name

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

BLOCK = bytes(4096)
REMEDY = ". Make room, make it writable, or name another path."


def try_file(path: str | Path, action: str, size: int = 0) -> None:
    """Check that a file of ``size`` bytes can be written to ``path``, and remove what killed processes left beside it.

    A block is written to a new file in its folder, or in the nearest one that exists, and removed again; no folder is
    made. Raises `FileError`, ``cannot ACTION PATH: …``.
    """
    path = Path(path).expanduser()
    with naming(action, path, REMEDY):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder; name a file")
        _try(path.parent, size)


def try_folder(path: str | Path, action: str) -> None:
    """Check that files can be written into the folder ``path``, as `try_file` does."""
    with naming(action, path, REMEDY):
        _try(Path(path).expanduser(), 0)


def _try(folder: Path, size: int) -> None:
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not existing.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, f"{existing} is no folder")
    if existing == folder:
        remove_leftovers(folder)
    trial = existing / unfinished_name()
    try:
        with trial.open("xb") as file:
            file.write(BLOCK)
            file.flush()
            os.fsync(file.fileno())
    finally:
        trial.unlink(missing_ok=True)
    room = shutil.disk_usage(existing).free
    if resource is not None and (most := resource.getrlimit(resource.RLIMIT_FSIZE)[0]) != resource.RLIM_INFINITY:
        room = min(room, most)
    if size > room:
        raise OSError(errno.ENOSPC, f"it needs {size / 1e6:,.1f} MB of space, and there are {room / 1e6:,.1f} MB")
