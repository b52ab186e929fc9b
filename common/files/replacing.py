"""Replacement of files: written under another name in the same folder, then renamed.

A reader sees the old file or the new one, never a part of one; a full disk or a kill leaves the old one. The unfinished
file bears host and process, so that the next start removes what a killed process left.
"""

import os
import re
import socket
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from common.files.errors import naming

UNFINISHED = ".unfinished-"
STALE_SECONDS = 24 * 3600  # age of an unfinished file of another machine that is taken to be left over


@contextmanager
def replacing(path: str | Path, action: str = "write") -> Iterator[Path]:
    """Yield an empty file beside ``path``, which takes its place when the block ends without an error.

    The new file is on the disk (fsync) before it gets its name, and has the permissions of the old one. A symbolic link
    at ``path`` is replaced, not followed. Raises `FileError`, ``cannot ACTION PATH: …``; ``path`` is then unchanged.
    """
    path = Path(path)
    with naming(action, path):
        unfinished = path.with_name(unfinished_name())
        try:
            unfinished.open("xb").close()
            mode = (path if path.is_file() else unfinished).stat().st_mode
            yield unfinished
            _flush(unfinished)
            unfinished.chmod(stat.S_IMODE(mode))
            os.replace(unfinished, path)
        finally:
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)


def write(path: str | Path, content: str | bytes, action: str = "write") -> Path:
    """Replace ``path`` by a file with this content; text is UTF-8 with its own line ends. Raises `FileError`."""
    write_all({Path(path): content}, action)
    return Path(path)


def write_all(contents: Mapping[Path, str | bytes], action: str = "write") -> None:
    """`write` several files; none is replaced before all are on the disk. Raises `FileError`."""
    with ExitStack() as stack:
        for path, content in contents.items():
            data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
            unfinished = stack.enter_context(replacing(path, action))
            with naming(action, path), unfinished.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())


def remove_leftovers(folder: str | Path) -> None:
    """Remove the unfinished files of ended processes from a folder: of this machine, or a day old."""
    for file in Path(folder).glob(f"{UNFINISHED}*"):
        with suppress(OSError, ValueError, OverflowError):
            host, process, _ = file.name.removeprefix(UNFINISHED).rsplit("-", 2)
            ended = host == _host() and not is_running(int(process))
            if ended or time.time() - file.stat().st_mtime > STALE_SECONDS:
                file.unlink()


def unfinished_name() -> str:
    """A new name of an unfinished file, with host and process."""
    return f"{UNFINISHED}{_host()}-{os.getpid()}-{uuid4().hex[:8]}"


def is_running(process: int) -> bool:
    """True if this machine has a process with this number."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # of another user
        return True
    return True


def _host() -> str:
    return re.sub(r"[^\w.]", "_", socket.gethostname())[:64]


def _flush(file: Path) -> None:
    with file.open("rb+") as content:
        os.fsync(content.fileno())
