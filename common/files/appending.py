"""Files of one process, to which lines are appended."""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from common.files.errors import naming


def append(path: Path, data: bytes, action: str) -> None:
    """Append to a file all of ``data`` or nothing; it is on the disk (fsync) on return. Raises `FileError`."""
    with naming(action, path), path.open("r+b", buffering=0) as file:
        file.seek(0, os.SEEK_END)
        _write(file, data)


def _write(file: IO[bytes], data: bytes) -> None:
    rest, size = memoryview(data), file.tell()
    try:
        while rest:
            rest = rest[file.write(rest) :]
        os.fsync(file.fileno())
    except OSError:
        file.truncate(size)
        file.seek(size)
        raise


class AppendedFile:
    """A new file that lines are appended to: all of them or none, and on the disk (fsync) when `append` returns.

    ``content`` names the lines in errors: ``records``. Raises ``OSError`` if ``path`` exists or cannot be made.
    """

    def __init__(self, path: Path, content: str) -> None:
        self.path, self.content = path, content
        self.file = path.open("xb", buffering=0)

    def append(self, lines: Sequence[bytes]) -> None:
        """Append lines. Raises `FileError`, and ``FileNotFoundError`` if the file is no longer where it was made."""
        self.check_in_place()
        with naming(f"append {self.content} to", self.path):
            _write(self.file, b"".join(lines))

    def check_in_place(self) -> None:
        """Raise ``FileNotFoundError`` if the file was removed, or its folder was moved."""
        with suppress(OSError):
            if os.path.samestat(self.path.stat(), os.fstat(self.file.fileno())):
                return
        raise FileNotFoundError(
            f"{self.path} was removed or moved while {self.content} were written to it. Put it back, if it still "
            "exists, and run the same command again, which does what is missing."
        )

    def close(self, remove: bool = False) -> None:
        """Close the file, and remove it if asked to."""
        self.file.close()
        if remove:
            self.path.unlink(missing_ok=True)
