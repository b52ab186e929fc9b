"""Errors of the system, with the file and what was being done."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class FileError(OSError):
    """A file that could not be written or read; the message names the action, the file and the system's reason."""

    def __init__(self, action: str, path: str | Path, error: OSError, note: str = "") -> None:
        reason = error.strerror or str(error)
        super().__init__(error.errno, reason, str(path))
        self.action = action
        self._text = f"cannot {action} {path}: {reason}{note}"

    def __str__(self) -> str:
        return self._text


@contextmanager
def naming(action: str, path: str | Path, note: str = "") -> Iterator[None]:
    """Context manager that raises `FileError` in place of an ``OSError``: ``cannot ACTION PATH: No space left …``.

    ``note`` is added to the message.
    """
    try:
        yield
    except FileError:
        raise
    except OSError as error:
        raise FileError(action, path, error, note) from error
