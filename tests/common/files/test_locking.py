"""One output, one process: a second one is refused with host, process and start time of the first."""

import errno
import os
import signal
import socket
from contextlib import contextmanager

import pytest

from common.files import locking
from common.files.errors import FileError
from common.files.locking import LOCK, lock, lock_of, unlock


@contextmanager
def another_process(act):
    """Fork a process that runs ``act`` and then waits to be killed; yields its number."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            act()
            os.write(writer, b"1")
            signal.pause()
        finally:
            os._exit(1)
    os.close(writer)
    assert os.read(reader, 1) == b"1"
    try:
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reader)


def test_a_second_process_is_refused_and_told_of_the_first(tmp_path):
    with another_process(lambda: lock(tmp_path)) as first:
        expected = rf"is being written by process {first} on {socket.gethostname()} since 20\d\d-.*T.*\. Wait"
        with pytest.raises(ValueError, match=expected):
            lock(tmp_path)
        link = tmp_path.with_name("link")
        link.symlink_to(tmp_path)
        with pytest.raises(ValueError, match=f"process {first}"):
            lock(link)  # the same folder
        lock(tmp_path / "x", lock_of(tmp_path / "x"))  # another output
    lock(tmp_path)  # the first was killed
    unlock(tmp_path)
    unlock(tmp_path / "x", lock_of(tmp_path / "x"))
    assert not [*tmp_path.iterdir()]


def test_a_process_may_lock_again_what_it_holds(tmp_path):
    lock(tmp_path)
    lock(tmp_path)
    unlock(tmp_path)
    unlock(tmp_path)
    with another_process(lambda: lock(tmp_path)):
        assert (tmp_path / LOCK).exists()


def test_a_forked_process_does_not_keep_its_parents_lock(tmp_path):
    """As loaders of images, which may outlive a killed command for seconds."""

    reader, writer = os.pipe()

    def with_a_child():
        lock(tmp_path)
        if (loader := os.fork()) == 0:
            signal.pause()
        os.write(writer, f"{loader}\n".encode())

    with another_process(with_a_child) as first:
        loader = int(os.read(reader, 99))
        try:
            os.kill(first, signal.SIGKILL)
            os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
            lock(tmp_path)
            assert f"process {os.getpid()} " in (tmp_path / LOCK).read_text()
        finally:
            os.kill(loader, signal.SIGKILL)
    unlock(tmp_path)


def test_a_link_is_not_followed(tmp_path):
    kept = tmp_path / "kept.txt"
    kept.write_text("kept")
    (tmp_path / LOCK).symlink_to(kept)
    with pytest.raises(FileError, match="cannot make the lock"):
        lock(tmp_path)
    assert kept.read_text() == "kept"


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_without_locks_of_the_file_system_the_named_process_decides(tmp_path, monkeypatch, number):
    def flock(descriptor, way):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(locking.fcntl, "flock", flock)
    lock(tmp_path)  # nobody is named
    locking._held.clear()
    file = tmp_path / LOCK
    with another_process(lambda: None) as other:
        file.write_text(f"process {other} on {socket.gethostname()} since 2026-01-01\n")
        with pytest.raises(ValueError, match=f"written by process {other}"):
            lock(tmp_path)
        file.write_text("process 1 on another-machine since 2026-01-01\n")
        with pytest.raises(ValueError, match=r"another-machine.*If it has ended, delete .*\.lock"):
            lock(tmp_path)
        file.write_text(f"process {other} on {socket.gethostname()} since 2026-01-01\n")
    lock(tmp_path)  # it has ended
    unlock(tmp_path)
    assert not file.exists()


def test_a_lock_file_that_its_holder_removes_meanwhile_is_made_anew(tmp_path, monkeypatch):
    """Between opening and locking: the lock of a file without a name would exclude nobody."""
    real, removed = locking._acquired, []

    def acquired(descriptor):
        if not removed:
            removed.append((tmp_path / LOCK).unlink())
        return real(descriptor)

    monkeypatch.setattr(locking, "_acquired", acquired)
    lock(tmp_path)
    with another_process(lambda: None):
        assert (tmp_path / LOCK).read_text().startswith(f"process {os.getpid()} on")
    unlock(tmp_path)
