"""Files of records in a directory: part files, the merged file and the archive, each plain or compressed."""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from common.checks.bounds import check_bound

ROWS, GZIP = ".jsonl", ".gz"
PARTS, MERGED = "part-*.jsonl", "records.jsonl"
ARCHIVE = f"{MERGED}{GZIP}"
DIAGNOSTICS = "diagnostics"  # directory beside a run's records: gradient check and masking variants
SMALL = 1 << 26  # bytes of content that any archive may have

_PATTERNS = (ARCHIVE, f"{PARTS}{GZIP}", PARTS, MERGED)  # the merged file last: its lines are known from the others


def files_of(path: Path) -> list[Path]:
    """Files with records in a directory, or the one that is named."""
    return [path] if path.is_file() else [file for pattern in _PATTERNS for file in sorted(path.glob(pattern))]


def holds_records(folder: Path) -> bool:
    """True of a directory with any file of records."""
    return folder.is_dir() and bool(files_of(folder))


def run_folders(folder: Path) -> list[Path]:
    """Runs in a folder: itself if it holds records, then its folders that do, by name, without its diagnostics."""
    if not folder.is_dir():
        return []
    own = [folder] if holds_records(folder) else []
    below = (path for path in sorted(folder.iterdir()) if holds_records(path))
    return [*own, *(path for path in below if not own or path.name != DIAGNOSTICS)]


def is_run(folder: Path) -> bool:
    """True of a folder with records and, but for its diagnostics, no folders of other runs."""
    return run_folders(folder) == [folder]


def studies_in(folder: Path) -> list[Path]:
    """Folders in a folder that hold folders of runs, by name."""
    below = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path for path in below if run_folders(path) and not is_run(path)]


def is_whole(path: Path) -> bool:
    """True of a file that was written in one piece, in which a torn line is damage: a merged or a compressed one."""
    return path.name == MERGED or path.suffix == GZIP


def is_records_file(path: Path) -> bool:
    """True of a name that ends in ``.jsonl`` or ``.jsonl.gz``."""
    return path.name.endswith((ROWS, f"{ROWS}{GZIP}"))


def check_regular(path: Path) -> None:
    """Raise ``ValueError`` for a link to a device or a pipe, which would never end."""
    if not path.is_file():
        raise ValueError(f"{path} must be a regular file; it is not. Delete it.")


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The text of a file of records, to read. Raises ``ValueError`` for a compressed file that is damaged."""
    check_regular(path)
    if path.suffix != GZIP:
        with path.open("rb") as file:
            yield file
        return
    try:
        if not path.stat().st_size:
            raise EOFError("it is empty")
        with _Compressed(path) as archive:
            yield cast(BinaryIO, archive)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(
            f"{path} is damaged ({error}). Take it from its source again, or delete it and run the same test again."
        ) from error


class _Compressed(gzip.GzipFile):
    """A compressed file that ends with a `BoundError` once its content is far larger than the file."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "rb")
        self._path, self._size = path, path.stat().st_size

    def read(self, size: int | None = -1) -> bytes:
        return self._checked(super().read(size))

    def readline(self, size: int | None = -1) -> bytes:
        return self._checked(super().readline(size))

    def _checked(self, content: bytes) -> bytes:
        check_bound("archive", self.tell(), str(self._path), unit=self._size, allowed=SMALL)
        return content
