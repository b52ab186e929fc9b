"""Notes on images in hand: intermediate results that a killed process leaves to the next start.

An image may take hours, and its row is written at its end. Until then its notes are in a file beside the records,
``notes-EVALUATION-INDEX.json``, which is replaced as a whole every few seconds and removed when the row is written.
"""

import hashlib
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from common.checks.bounds import bound
from common.files.replacing import write
from common.records.rows import sealed, unsealed
from common.records.schema import Source

INTERVAL = 10.0
"""Seconds between two replacements of a file, and before the first: images that take less have none."""
_NAMES = re.compile(r"notes-([0-9a-f]{16})-(\d{1,10})\.json")


class Notes:
    """Values of JSON by image and key, for the images that one process evaluates at a time.

    ``fingerprint`` is that of the records and of the code; notes under another one, or damaged ones, are not read.
    """

    def __init__(self, path: Path, fingerprint: str, source: Source, indices: Sequence[int]) -> None:
        name = _name(source)
        self._files = {index: path / f"notes-{name}-{index}.json" for index in indices}
        self._fingerprint, self._changed = fingerprint, set[int]()
        self._values = {index: self._read(index) for index in indices}
        self._saved, self._turns = time.monotonic(), Counter[tuple[int, str]]()

    def turn(self, index: int, key: str) -> str:
        """A key for each time that a value of this name is computed of an image, since it may be another one."""
        self._turns[index, key] += 1
        return f"{key} {self._turns[index, key]}"

    def again(self) -> None:
        """Begin to count turns anew, for an evaluation that is repeated from its start."""
        self._turns.clear()

    def get(self, index: int, key: str) -> Any:
        """The value that was noted of an image, None if there is none."""
        return self._values.get(index, {}).get(key)

    def put(self, index: int, key: str, value: Any) -> None:
        """Note a value of an image, for `save`; nothing of an image that is not in hand."""
        if index in self._values:
            self._values[index][key] = value
            self._changed.add(index)

    @property
    def due(self) -> bool:
        """True if the files are to be replaced: ``INTERVAL`` seconds have passed."""
        return time.monotonic() - self._saved >= INTERVAL

    def save(self) -> None:
        """Replace the files of images with new notes, if it is `due`. Notes that cannot be written are none."""
        if not self.due:
            return
        for index in self._changed:
            row = {"fingerprint": self._fingerprint, "index": index, "notes": self._values[index]}
            with suppress(OSError):
                write(self._files[index], sealed(json.dumps(row)), "note the state of an image in")
        self._changed, self._saved = set(), time.monotonic()

    def remove(self) -> None:
        """Remove the files, whose images have rows now."""
        for file in self._files.values():
            file.unlink(missing_ok=True)

    def _read(self, index: int) -> dict[str, Any]:
        file = self._files[index]
        with suppress(OSError, ValueError, KeyError, TypeError):
            if not file.is_symlink() and file.is_file() and file.stat().st_size <= bound("line"):
                row = unsealed(file.read_bytes().removesuffix(b"\n"))
                if (row["fingerprint"], row["index"]) == (self._fingerprint, index):
                    return dict(row["notes"])
        return {}


_CURRENT: ContextVar[Notes | None] = ContextVar("notes", default=None)


@contextmanager
def keeping(notes: Notes) -> Iterator[None]:
    """Context manager of an evaluation and of writing its rows: `current_notes`, removed when the rows are written."""
    token = _CURRENT.set(notes)
    try:
        yield
    finally:
        _CURRENT.reset(token)
    notes.remove()


def current_notes() -> Notes | None:
    """The notes of the images in hand; None outside of a test."""
    return _CURRENT.get()


def noted(path: Path) -> set[int]:
    """Indices of the images that a directory of records has notes on."""
    return {index for _, _, index in _files(path)}


def remove_stale(path: Path, sources: Iterable[Source], lacks: Callable[[Source, int], bool]) -> None:
    """Remove notes on images that do not lack a row, and those of evaluations other than ``sources``."""
    known = {_name(source): source for source in sources}
    for file, name, index in _files(path):
        if name not in known or not lacks(known[name], index):
            with suppress(OSError):
                file.unlink(missing_ok=True)


def _name(source: Source) -> str:
    return hashlib.sha256(json.dumps([*source]).encode()).hexdigest()[:16]


def _files(path: Path) -> list[tuple[Path, str, int]]:
    """Files of notes, with the name of the evaluation and the index of the image."""
    found = ((file, _NAMES.fullmatch(file.name)) for file in path.glob("notes-*.json"))
    return [(file, match[1], int(match[2])) for file, match in found if match]
