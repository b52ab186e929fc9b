"""A disk without space: a file size limit, and a small file system where one may be mounted."""

import contextlib
import resource
import subprocess

import pytest


@contextlib.contextmanager
def size_limit(count):
    """Writes beyond ``count`` bytes of a file fail."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def filled(folder):
    """No block of the file system is free."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)) == 4096:
            pass
    try:
        yield
    finally:
        ballast.unlink()


@pytest.fixture(params=["limit", "tmpfs"])
def disk(request, tmp_path, monkeypatch):
    """A folder, and a context manager in which its disk is full; fallbacks go to ``tmp_path``."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "disk"
    folder.mkdir()
    if request.param == "limit":
        yield folder, lambda: size_limit(40)
        return
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("no file system may be mounted here")
    try:
        yield folder, lambda: filled(folder)
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
