"""Rows and images of a prediction that has not ended yet, or was interrupted."""

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from uuid import uuid4

from common.files.appending import AppendedFile
from common.files.replacing import remove_leftovers, write
from common.records.rows import UNDETERMINED, Header, header_line, other_configuration, sealed, unsealed

STAGING = ".unfinished"
PARTS, KEPT, IMAGES = "part-*.jsonl", "part-kept.jsonl", "images"
Row = dict[str, Any]


class UnfinishedPredictions:
    """The folder ``.unfinished`` in a folder of predictions.

    Each process appends rows to a part of its own, whose first line identifies the classifier, its settings and the
    images. ``image(name)`` is the path of a purified image until the prediction ends.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / STAGING
        self._part: AppendedFile | None = None

    def prepare(self, header: Header) -> None:
        """Make the folder, for one process. Raises ``ValueError`` if ``header`` does not continue the rows in it."""
        for part in self.parts():
            own, rows = read_part(part)
            if own is not None and rows and own.fingerprint != header.fingerprint:
                raise ValueError(other_configuration(part, own, header, "unfinished predictions"))
            if rows and (places := header.config.get(UNDETERMINED)):
                raise ValueError(
                    f"{self.path} holds unfinished predictions, and it cannot be determined whether this run continues "
                    f"them: {'; '.join(places[:4])}. Name another folder (--out), or delete {self.path}."
                )
        self.path.mkdir(parents=True, exist_ok=True)
        for folder in (self.path, *(place for place in (self.path / IMAGES).rglob("*") if place.is_dir())):
            remove_leftovers(folder)

    def append(self, rows: Iterable[Row], header: Header, rank: int) -> None:
        """Append rows to this process's part."""
        if self._part is None:
            name = PARTS.replace("*", f"{rank:05d}-{os.getpid()}-{uuid4().hex[:8]}")
            self._part = AppendedFile(self.path / name, "predictions")
            self._part.append([header_line(header)])
        self._part.append([sealed(json.dumps(row)) for row in rows])

    def keep(self, rows: Iterable[Row], header: Header) -> None:
        """Replace all parts by one with these rows, for one process."""
        others, kept = self.parts(), self.path / KEPT
        lines = [header_line(header), *(sealed(json.dumps(row)) for row in rows)]
        write(kept, b"".join(lines), "write the unfinished predictions")
        for part in others:
            if part != kept:
                part.unlink()

    def rows(self) -> list[Row]:
        """The rows of all parts."""
        return [row for part in self.parts() for row in read_part(part)[1]]

    def parts(self) -> list[Path]:
        """The parts of all processes."""
        return sorted(self.path.glob(PARTS))

    def image(self, name: str) -> Path:
        """Path of an image before it is moved into place."""
        return self.path / IMAGES / name

    def remove(self) -> None:
        """Remove the folder."""
        if self._part is not None:
            self._part.close()
            self._part = None
        shutil.rmtree(self.path)


def read_part(path: Path) -> tuple[Header | None, list[Row]]:
    """Header and rows of a part; a line that a kill tore off is skipped, and the header is then None.

    Raises ``ValueError`` with file and line for a damaged one.
    """
    *lines, _ = path.read_bytes().split(b"\n")
    header = None
    rows: list[Row] = []
    for number, line in enumerate(lines, start=1):
        try:
            row = dict(unsealed(line))
            if number == 1:
                header = Header(str(row["fingerprint"]), dict(row["config"]))
            else:
                rows.append(row | {"index": int(row["index"]), "file": str(row["file"])})
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}, line {number} is damaged ({error}). Delete that file and run the same command again, which "
                "predicts its images anew."
            ) from error
    return header, rows
