"""Lines of a records file, as JSON: a `Header` with the fingerprint of the configuration, then a `Record` each."""

import json
from dataclasses import MISSING, asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from common.records.dotted_paths import differences
from common.records.schema import KINDS, Kind, Record

FORMAT = "robust-diffusion records 1"
PARTS, MERGED = "part-*.jsonl", "records.jsonl"
DIAGNOSTICS = "diagnostics"  # directory beside a run's records: gradient check and masking variants


@dataclass(frozen=True)
class Header:
    """First line of a records file: a hash of all that a row depends on, and the configuration to read."""

    fingerprint: str
    config: dict[str, Any]


def header_line(header: Header) -> bytes:
    """First line of a file."""
    row = {"format": FORMAT, "fingerprint": header.fingerprint, "config": header.config}
    return json.dumps(row, sort_keys=True).encode() + b"\n"


def record_line(record: Record, cost: bool = True) -> bytes:
    """Line of one row; the same bytes for the same row. ``cost=False`` leaves its cost out."""
    row = {name: value for name, value in values(record).items() if value != _defaults(record.kind).get(name, MISSING)}
    if cost and record.cost is not None:
        row["cost"] = {name: value for name, value in asdict(record.cost).items() if value is not None}
    return json.dumps({"kind": record.kind, **row}, sort_keys=True, allow_nan=False, default=asdict).encode() + b"\n"


def read_record(row: dict[str, Any]) -> Record:
    """Record of a parsed line. Raises ``ValueError`` or ``TypeError`` for an unknown kind, key or type."""
    kind = row.pop("kind", None)
    if kind not in KINDS:
        raise ValueError(f"its kind must be one of {', '.join(KINDS)}; got {kind!r}")
    return KINDS[kind](**row)


def values(record: Record) -> dict[str, Any]:
    """Fields of a row by name, without its cost."""
    return {name: getattr(record, name) for name in _names(record.kind)}


def read_rows(path: Path, expected: Header | None = None) -> tuple[Header, list[Record]]:
    """Header and rows, unmerged, of a directory or of one file.

    All files with rows must carry one fingerprint, that of ``expected`` where given. Raises ``ValueError`` if they do
    not, if a line is damaged, or if there is no file at all and nothing was expected.
    """
    files = [path] if path.is_file() else sorted([*path.glob(PARTS), *path.glob(MERGED)])
    parsed = [(file, *parse(file)) for file in files]
    parsed.sort(key=lambda entry: not entry[2])  # files without rows come last: their header does not count
    header, rows = expected, []
    for file, own, records in parsed:
        if header is not None and own is not None and records and own.fingerprint != header.fingerprint:
            raise ValueError(_other_configuration(file, own, header))
        header = header or own
        rows += records
    if header is None:
        raise ValueError(f"no records in {path}: expected {PARTS} or {MERGED}. Name the directory of a test run.")
    return header, rows


def parse(path: Path) -> tuple[Header | None, list[Record]]:
    """Header and rows of one file; the header is None when a kill came before the first line was finished.

    An unreadable last line is a torn row, left by a kill, and is skipped. A merged file is written in one piece, so
    there it is damage, as everywhere else: ``ValueError`` with file and line.
    """
    header, rows = None, []
    *lines, rest = path.read_bytes().split(b"\n")
    lines += [rest] if rest else []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            if number == 1:
                header = _header(row)
            else:
                rows.append(read_record(row))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if number == len(lines) and path.name != MERGED and not isinstance(error, _OtherFormatError):
                break
            if number == 1 and path.suffix != ".jsonl":
                raise ValueError(f"{path} holds no records. Name the directory of a test run.") from error
            raise ValueError(f"{path}, line {number} is damaged ({error}). Repair or delete that line.") from error
    return header, rows


class _OtherFormatError(ValueError):
    """Complete header of another format."""


def _header(row: Any) -> Header:
    if not isinstance(row, dict) or row.get("format") != FORMAT:
        raise _OtherFormatError(f"its format is not {FORMAT!r}")
    return Header(str(row["fingerprint"]), dict(row["config"]))


@cache
def _names(kind: Kind) -> tuple[str, ...]:
    return tuple(field.name for field in fields(KINDS[kind]) if field.name != "cost")


@cache
def _defaults(kind: Kind) -> dict[str, Any]:
    cls = KINDS[kind]
    known = {field.name: field.default for field in fields(cls) if field.default is not MISSING}
    made = {field.name: field.default_factory() for field in fields(cls) if field.default_factory is not MISSING}
    return known | made


def _other_configuration(path: Path, own: Header, header: Header) -> str:
    changed = sorted(f"{place}: {old!r} -> {new!r}" for place, old, new in differences(own.config, header.config))
    listed = "; ".join(changed[:8]) + (f"; and {len(changed) - 8} more" if len(changed) > 8 else "")
    listed = listed or "nothing in the configuration itself, so what it points to (weights, data or code)"
    return (
        f"{path} holds records of another configuration. Changed: {listed}. "
        f"Write to another directory, go back to that configuration, or delete {path.parent}."
    )
