"""Lock of an output: two commands never write to one place."""

import errno
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

from common.files.errors import naming
from common.files.replacing import is_running

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
"""Name of the lock file in a folder of outputs."""

UNSUPPORTED = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}  # of file systems without locks
_held: dict[Path, int] = {}  # lock files of this process and their descriptors


def lock(output: Path, file: Path | None = None) -> None:
    """Lock ``output`` for this process, by ``file``, by default `LOCK` in the folder ``output``.

    The file holds host, process and start time. The system drops the lock when the process ends, however it ends. Where
    the file system has no locks, the process that the file names is looked for. A process may lock again what it holds.

    Raises ``ValueError`` with the process that holds it, and `FileError` if the file cannot be made.
    """
    file = _place(output, file)
    if file in _held:
        return
    while True:
        with naming("make the lock", file):
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        if not _acquired(descriptor):
            error = held(output, descriptor, file)
            os.close(descriptor)
            raise error
        if _same(descriptor, file):
            break
        os.close(descriptor)  # the holder removed the file in between
    started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()} since {started}\n".encode(), 0)
    except OSError:  # a full disk
        file.unlink(missing_ok=True)
        os.close(descriptor)
        raise
    _held[file] = descriptor


def check_free(output: Path, file: Path) -> None:
    """Raise ``ValueError`` if another process holds the lock ``file`` of ``output``; nothing is locked."""
    if _place(output, file) in _held or not file.exists():
        return
    with naming("read the lock", file):
        descriptor = os.open(file, os.O_RDWR | os.O_NOFOLLOW)
    try:
        if not _acquired(descriptor, shared=True):
            raise held(output, descriptor, file)
    finally:
        os.close(descriptor)


def held(output: Path, descriptor: int, file: Path) -> ValueError:
    """Error of an output that another process holds, which the lock file names."""
    holder = os.pread(descriptor, 999, 0).decode(errors="replace").strip() or "another process"
    return ValueError(
        f"{output} is being written by {holder}. Wait until it has ended, or name another path. If it has "
        f"ended, delete {file}."
    )


@contextmanager
def in_turn(output: Path, file: Path, seconds: float) -> Iterator[None]:
    """Context manager: one process at a time; one that has waited for ``seconds`` goes on without the lock."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            lock(output, file)
            break
        except ValueError:
            if time.monotonic() > deadline:
                break
        time.sleep(0.05)
    try:
        yield
    finally:
        unlock(output, file)


def lock_of(file: Path) -> Path:
    """The lock file of an output that is a file: beside it, ``.NAME.lock``."""
    return file.with_name(f".{file.name[:200]}{LOCK}")


def unlock(output: Path, file: Path | None = None) -> None:
    """Remove the lock file of this process; nothing without one."""
    file = _place(output, file)
    if (descriptor := _held.pop(file, None)) is not None:
        if _same(descriptor, file):
            file.unlink(missing_ok=True)
        os.close(descriptor)


def _place(output: Path, file: Path | None) -> Path:
    """Path of a lock file, its folder without links, so that two names of one folder are one lock."""
    file = file or output / LOCK
    return file.parent.resolve() / file.name


def _acquired(descriptor: int, shared: bool = False) -> bool:
    try:
        if fcntl is None:
            return not _alive(descriptor)
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        return not _alive(descriptor)
    return True


def _alive(descriptor: int) -> bool:
    """False if the file names no process, or one that has ended on this machine."""
    words = os.pread(descriptor, 999, 0).decode(errors="replace").split()
    if len(words) < 4 or not words[1].isdigit():
        return False
    return words[3] != socket.gethostname() or (int(words[1]) != os.getpid() and is_running(int(words[1])))


def _same(descriptor: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except OSError:
        return False


def _drop() -> None:
    """In a forked process: leave the locks to its parent, which they would outlive otherwise."""
    for descriptor in _held.values():
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_drop)
