"""Records files as columns: every row validated, one fingerprint per directory, one label per image."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.checks.bounds import bound, check_bound
from common.records.alike_lines import alike_parts
from common.records.blocks import NEWLINE, are_sealed, blocks
from common.records.column_rows import Rows
from common.records.header_rules import HeaderRules
from common.records.known_lines import KnownLines
from common.records.merging import merged
from common.records.record_files import MERGED, PARTS, files_of, opened
from common.records.rows import Header, damaged, first_line, later_line, other_configuration
from common.records.schema import Record, Source
from common.records.table import Table, without_collection


@dataclass(frozen=True)
class RecordsFile:
    """One file: its ``header``, None of a torn first line, and its rows in ``parts``, in the order of the file.

    ``known``: it has lines besides, each of which another file holds.
    """

    path: Path
    header: Header | None
    parts: list[Rows[Any]]
    known: bool = False

    @property
    def has_rows(self) -> bool:
        """True of a file with any row."""
        return bool(self.parts) or self.known


def read_table(path: Path, expected: Header | None = None) -> tuple[Header, Table]:
    """Header and rows, merged, of a directory or of one file.

    All files with rows must carry one fingerprint, that of ``expected`` where given, and all rows of an image one
    label. Raises ``ValueError`` if they do not, if a line is damaged, if two rows of one key disagree, or if there is
    no file at all and nothing was expected.
    """
    files = read_files(path, expected, once=True)
    header = expected or next((file.header for file in files if file.header is not None), None)
    if header is None:
        raise ValueError(f"no records in {path}: expected {PARTS} or {MERGED}. Name the directory of a test run.")
    return header, merged((part for file in files for part in _emptied(file.parts)), path)


def read_files(path: Path, expected: Header | None = None, once: bool = False) -> list[RecordsFile]:
    """Every file, as `read_table`; files without rows come last, since their header does not count.

    ``once``: lines of a merged file are left out where the other files hold them.
    """
    files = list[RecordsFile]()
    paths = files_of(path)
    lines = KnownLines() if once and len(paths) > 1 and paths[-1].name == MERGED else None
    with without_collection():
        for place in paths:
            files.append(_read(place, files, lines))
    parsed = sorted(files, key=lambda file: not file.has_rows)
    header = expected
    for file in parsed:
        own = file.header
        if header is not None and own is not None and file.has_rows and own.fingerprint != header.fingerprint:
            raise ValueError(other_configuration(file.path, own, header))
        header = header or own
    _check_labels([part for file in files for part in file.parts], [file.path for file in files])
    return parsed


def _emptied(parts: list[Rows[Any]]) -> Iterator[Rows[Any]]:
    while parts:
        yield parts.pop(0)


def _read(path: Path, before: Sequence[RecordsFile], lines: KnownLines | None) -> RecordsFile:
    """One file, after those ``before``; torn and damaged lines as in `common.records.rows.parse`.

    ``lines``: those of the part files, if they are not to be read again in the merged one.
    """
    parts, known, number = list[Rows[Any]](), False, len(before)
    with opened(path) as file:
        line = file.readline(int(bound("line")) + 1)
        check_bound("line", len(line), f"{path}, line 1")
        header = first_line(path, line.removesuffix(NEWLINE), line.endswith(NEWLINE)) if line else None
        if header is None:
            return RecordsFile(path, None, parts)
        rules, place = HeaderRules(header.config), 2
        again = path.name == MERGED and all(one.header == header for one in before if one.has_rows)
        for block in blocks(file, path, place):
            whole = block[: block.rfind(NEWLINE) + 1]
            if whole and lines and again and are_sealed(whole) and lines.hold(whole):
                known = True
            elif whole:
                parts += _block_parts(whole, path, rules, (number, place))
                if lines and not again:
                    lines.add(whole)
            place += whole.count(NEWLINE)
            if torn := block[len(whole) :]:
                row = later_line(path, place, torn, False, rules)
                parts += [] if row is None else _as_parts([row], (number, place))
    return RecordsFile(path, header, parts, known)


def _block_parts(block: bytes, path: Path, rules: HeaderRules, place: tuple[int, int]) -> list[Rows[Any]]:
    """Rows of whole lines; of a block with anything unusual in it line by line, which names what is damaged."""
    parts = alike_parts(block, rules, *place) if are_sealed(block) else None
    if parts is not None:
        return parts
    lines = enumerate(block[:-1].split(NEWLINE), place[1])
    records = (later_line(path, number, line, True, rules) for number, line in lines)
    return _as_parts([row for row in records if row is not None], place)


def _as_parts(records: Sequence[Record], place: tuple[int, int]) -> list[Rows[Any]]:
    groups: dict[tuple[Source, type[Record]], list[int]] = defaultdict(list)
    for number, row in enumerate(records):
        groups[row.source, type(row)].append(number)
    parts = []
    for members in groups.values():
        rows = Rows.of([records[number] for number in members])
        places = np.stack([np.full(len(members), place[0]), np.array(members) + place[1]], axis=1)
        parts.append(Rows(rows.kind, rows.source, rows.columns, rows.costs, places))
    return parts


def _check_labels(parts: Sequence[Rows[Any]], paths: Sequence[Path]) -> None:
    """Raise ``ValueError`` unless all rows of an image have one label; rows of one key are left to the merging."""
    if not parts:
        return
    images, labels = (np.concatenate([part.array(name) for part in parts]) for name in ("index", "label"))
    order = np.argsort(images, kind="stable")
    if not ((np.diff(images[order]) == 0) & (np.diff(labels[order]) != 0)).any():
        return
    rows = sorted(entry for part in parts for entry in _listed(part))
    first: dict[int, tuple[Source, int, str]] = {}
    for (file, line), source, image, label in rows:
        known, other, place = first.setdefault(image, (source, label, f"{paths[file]}, line {line}"))
        if other != label and known != source:
            reason = f"its label is {label}, but {known.evaluator!r} has {other}"
            raise damaged(paths[file], line, reason, f"that line and that of {known.evaluator!r} ({place})")


def _listed(part: Rows[Any]) -> Iterator[tuple[tuple[int, int], Source, int, int]]:
    for (file, line), image, label in zip(part.places.tolist(), part.image.tolist(), part.label.tolist(), strict=True):
        yield (file, line), part.source, image, label
