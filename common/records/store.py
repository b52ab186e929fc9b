"""Store of one run's records: append, resume, merge.

A run writes into a directory. Every process start opens a part file of its own,
``part-<rank>-<process>-<random>.jsonl``: ranks never share one, and a resumed run never writes behind a torn line.
All tables and figures are functions of these rows.
"""

import json
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from common.checks.settings import check_count, check_mapping, check_optional, check_part, check_path, check_text
from common.files.appending import AppendedFile
from common.files.errors import naming
from common.files.locking import in_turn, lock_of
from common.files.replacing import remove_leftovers, replacing
from common.records.merging import merged
from common.records.reading import read_files, read_table
from common.records.record_files import MERGED
from common.records.row_lines import lines
from common.records.rows import UNDETERMINED, Header, header_line, record_line
from common.records.schema import Record, Source

__all__ = ["Header", "Records"]

MERGING = 60.0  # seconds that a job waits while another one merges the same directory


class Records:
    """The rows of one run, in one directory; every process opens it once.

    ``fingerprint`` stands for all that a row depends on. A directory with rows of another one is refused, with what
    differs in ``config``, which the header keeps for the reader and the report. Opening writes the header, so that an
    unwritable path fails before any work.

    ``resumed`` are the rows of earlier starts; rows of processes with the same ``session`` are not among them.

    Raises ``ValueError`` when the path is a file or cannot be written, when a file in it holds rows of another
    fingerprint, when a line is damaged, and when there are rows to resume but ``config["undetermined"]`` names parts
    that cannot be determined. A torn last line, as a kill leaves it, is skipped.
    """

    def __init__(
        self,
        path: str | Path,
        fingerprint: str,
        config: Mapping[str, Any] | None = None,
        rank: int = 0,
        session: str = "",
    ) -> None:
        self.path = check_path("path", path)
        check_text("fingerprint", fingerprint)
        check_optional(check_mapping, "config", config)
        check_count("rank", rank, 0)
        check_part("session", session, str, "a text")
        self.header = Header(fingerprint, json.loads(json.dumps(dict(config or {}), default=str)), session)
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"records go to a directory, but {self.path} is a file. Name another path.")
        files = read_files(self.path, self.header)
        earlier = [file for file in files if file.header is None or not session or file.header.session != session]
        self.resumed = merged((rows.copy() for file in earlier for rows in file.parts), self.path)
        recorded = self.resumed
        if len(earlier) < len(files):
            recorded = merged((rows for file in files for rows in file.parts), self.path)
        self._done: dict[Source, set[int]] = {}
        for rows in recorded.parts:
            self._done.setdefault(rows.source, set()).update(rows.image.tolist())
        if self.resumed and (places := self.header.config.get(UNDETERMINED)):
            raise ValueError(_undetermined(self.path, places))
        part = self.path / f"part-{rank:05d}-{os.getpid()}-{uuid.uuid4().hex[:8]}.jsonl"
        self._empty = True
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self.path)
            self._part = AppendedFile(part, "records")
            self._part.append([header_line(self.header)])
            self._file = self._part.file
        except OSError as error:
            raise ValueError(
                f"cannot write records to {self.path} ({error}). Make it writable or name another path."
            ) from error

    def append(self, records: Sequence[Record]) -> None:
        """Append rows; they are on the disk (fsync) when this returns. Raises ``OSError`` if they cannot be."""
        self._part.append([record_line(record) for record in records])
        for record in records:
            self._done.setdefault(record.source, set()).add(record.index)
        self._empty = self._empty and not records

    def done(self, source: Source) -> set[int]:
        """Indices with a row of this evaluation: read on opening or at a merge, or appended by this process since."""
        return set(self._done.get(source, ()))

    def all(self) -> list[Record]:
        """Every row that any process has written so far, merged and sorted by key."""
        return list(read_table(self.path, self.header)[1])

    def merge(self) -> Path:
        """Write all rows to ``records.jsonl`` in one piece; the parts stay. For one rank, after the others have ended.

        Other jobs may still write to the directory, and merge it later.
        """
        self._part.check_in_place()
        target, action = self.path / MERGED, "merge the records into"
        turn = in_turn(self.path, lock_of(target), MERGING)
        with naming(action, target), turn, replacing(target, action) as unfinished, unfinished.open("wb") as file:
            file.write(header_line(replace(self.header, session="")))
            table = read_table(self.path, self.header)[1]
            file.writelines(lines(table))
        for rows in table.parts:
            self._done.setdefault(rows.source, set()).update(rows.image.tolist())
        return target

    def close(self) -> None:
        """Close this process's part, and remove it when it holds no row."""
        self._part.close(remove=self._empty)

    @staticmethod
    def read(path: str | Path) -> list[Record]:
        """Rows of a directory, or of one records file, merged and sorted by key."""
        return list(read_table(Path(path))[1])

    @staticmethod
    def describe(path: str | Path) -> Header:
        """Header of a directory, or of one records file."""
        return read_table(Path(path))[0]


def _undetermined(path: Path, places: Sequence[str]) -> str:
    listed = "; ".join(places[:4]) + (f"; and {len(places) - 4} more" if len(places) > 4 else "")
    return (
        f"{path} holds records, and it cannot be determined whether this run continues them: {listed}. Give the part a "
        "method identity() that returns what decides its numbers, or write to another directory."
    )
