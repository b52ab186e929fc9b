"""Store of one run's records: append, resume, merge.

A run writes into a directory. Every process start opens a part file of its own,
``part-<rank>-<process>-<random>.jsonl``: ranks never share one, and a resumed run never writes behind a torn line.
All tables and figures are functions of these rows.
"""

import json
import math
import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from common.checks.settings import check_count, check_mapping, check_optional, check_part, check_path, check_text
from common.files.appending import AppendedFile
from common.files.errors import naming
from common.files.locking import in_turn, lock_of
from common.files.replacing import remove_leftovers, replacing
from common.numerics.finding import Finding
from common.records.rows import (
    MERGED,
    UNDETERMINED,
    Header,
    header_line,
    places,
    read_files,
    read_rows,
    record_line,
    values,
)
from common.records.schema import Record, Source

__all__ = ["Header", "Records", "merge"]

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
        earlier = [rows for own, rows in files if own is None or not session or own.session != session]
        self.resumed = merge((row for rows in earlier for row in rows), self.path)
        self._done: dict[Source, set[int]] = {}
        self._mark(merge((row for _, rows in files for row in rows), self.path))
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
        self._mark(records)
        self._empty = self._empty and not records

    def done(self, source: Source) -> set[int]:
        """Indices with a row of this evaluation: read on opening, or appended by this process since."""
        return set(self._done.get(source, ()))

    def all(self) -> list[Record]:
        """Every row that any process has written so far, merged and sorted by key."""
        return merge(read_rows(self.path, self.header)[1], self.path)

    def merge(self) -> Path:
        """Write all rows to ``records.jsonl`` in one piece; the parts stay. For one rank, after the others have ended.

        Other jobs may still write to the directory, and merge it later.
        """
        self._part.check_in_place()
        target, action = self.path / MERGED, "merge the records into"
        turn = in_turn(self.path, lock_of(target), MERGING)
        with turn, replacing(target, action) as unfinished, naming(action, target), unfinished.open("wb") as file:
            file.write(header_line(replace(self.header, session="")))
            file.writelines(record_line(record, cost=False) for record in self.all())
        return target

    def close(self) -> None:
        """Close this process's part, and remove it when it holds no row."""
        self._part.close(remove=self._empty)

    @staticmethod
    def read(path: str | Path) -> list[Record]:
        """Rows of a directory, or of one records file, merged and sorted by key."""
        return merge(read_rows(Path(path))[1], Path(path))

    @staticmethod
    def describe(path: str | Path) -> Header:
        """Header of a directory, or of one records file."""
        return read_rows(Path(path))[0]

    def _mark(self, records: Iterable[Record]) -> None:
        for record in records:
            self._done.setdefault(record.source, set()).add(record.index)


def merge(rows: Iterable[Record], path: Path | None = None) -> list[Record]:
    """One row per key, sorted by it. Rows of one key must agree: floats to 1e-4, all else but images exactly.

    Two processes may have evaluated one image in different batches, where convolutions round differently. ``path`` has
    the files that the error for rows which disagree names.
    """
    merged: dict[tuple[Any, ...], Record] = {}
    for row in rows:
        kept = merged.setdefault(row.key, row)
        if kept is row:
            continue
        if not agree(kept, row):
            where = "" if path is None else f" They are in {places(path, row.key)}."
            raise ValueError(
                f"two records of {row.evaluator!r}, image {row.index}, disagree: {brief(kept)} and {brief(row)}.{where}"
                " One was made with other data, weights or code: delete all these lines and run the same test again, "
                "which evaluates the image anew."
            )
        merged[row.key] = min(kept, row, key=lambda record: (record_line(record, cost=False), record.cost is None))
    return [merged[key] for key in sorted(merged)]


def agree(first: Record, second: Record) -> bool:
    """True if two rows of one key are the same: floats to 1e-4, all else but images and cost exactly."""
    return first.kind is second.kind and _agree(_numbers(first), _numbers(second))


def brief(record: Record) -> str:
    """The beginning of a row's line, for messages."""
    return record_line(record, cost=False).decode().strip()[:160]


def _undetermined(path: Path, places: Sequence[str]) -> str:
    listed = "; ".join(places[:4]) + (f"; and {len(places) - 4} more" if len(places) > 4 else "")
    return (
        f"{path} holds records, and it cannot be determined whether this run continues them: {listed}. Give the part a "
        "method identity() that returns what decides its numbers, or write to another directory."
    )


def _numbers(record: Record) -> dict[str, Any]:
    return {name: value for name, value in values(record).items() if name != "images"}


def _agree(first: Any, second: Any) -> bool:
    if isinstance(first, Finding) and isinstance(second, Finding):
        return _agree(first.values(), second.values())
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(_agree(first[name], second[name]) for name in first)
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(_agree, first, second))
    if isinstance(first, float) and isinstance(second, float):
        return math.isclose(first, second, rel_tol=1e-4, abs_tol=1e-6)
    return type(first) is type(second) and bool(first == second)
