"""Records files, line by line: what is written, what a kill leaves behind, what counts as the same row.

A file is JSON lines. The first is a `Header` with a fingerprint of the configuration, every other one a `Record`.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import ROUND_FLOOR, Context
from pathlib import Path
from typing import Any

FORMAT = "robust-diffusion records 1"
PARTS, MERGED = "part-*.jsonl", "records.jsonl"
DIAGNOSTICS = "diagnostics"  # a directory beside a run's records: what was found out about its attacks
ABSTAIN = -1  # the prediction of a certifier that names no class
DIGITS = 6  # significant digits of a stored float: what float32 carries


@dataclass(frozen=True)
class Record:
    """What one evaluator found for one image.

    ``index`` is the image's index in the data set, ``label`` its class, ``values`` plain JSON with floats rounded to
    six significant digits, so that a record is the same before and after it went through a file. ``cost`` (seconds
    and the like) is no result: it takes no part in equality and is left out of the merged file. Raises
    ``ValueError`` for whatever is not plain, finite JSON.
    """

    evaluator: str
    index: int
    label: int
    values: dict[str, Any]
    cost: dict[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if not (isinstance(self.evaluator, str) and self.evaluator):
            raise ValueError(f"a record's evaluator must be a non-empty name; got {self.evaluator!r}")
        for name in ("index", "label"):
            if type(getattr(self, name)) is not int:
                raise ValueError(f"a record's {name} must be an int; got {getattr(self, name)!r}. Write int(…).")
        for name in ("values", "cost"):
            if not isinstance(getattr(self, name), Mapping):
                raise ValueError(f"a record's {name} must be a dictionary; got {getattr(self, name)!r}")
            object.__setattr__(self, name, _plain(getattr(self, name), name))

    @property
    def key(self) -> tuple[str, int]:
        """(evaluator, index): one row each."""
        return self.evaluator, self.index


@dataclass(frozen=True)
class Header:
    """First line of a records file: a hash of all that a row depends on, and the configuration to read."""

    fingerprint: str
    config: dict[str, Any]


def header_line(header: Header) -> bytes:
    """The first line of a file."""
    row = {"format": FORMAT, "fingerprint": header.fingerprint, "config": header.config}
    return json.dumps(row, sort_keys=True).encode() + b"\n"


def record_line(record: Record, cost: bool = True) -> bytes:
    """The line of one row; the same bytes for the same row. ``cost=False`` leaves its cost out."""
    row = {"evaluator": record.evaluator, "index": record.index, "label": record.label, "values": record.values}
    if cost and record.cost:
        row["cost"] = record.cost
    return json.dumps(row, sort_keys=True, allow_nan=False).encode() + b"\n"


def load(path: Path, expected: Header | None = None) -> tuple[Header, list[Record]]:
    """Header and rows, unmerged, of a directory or of one file.

    All files with rows must carry one fingerprint, that of ``expected`` where given. Raises ``ValueError`` if they do
    not, if a line is damaged, or if there is no file at all and nothing was expected.
    """
    files = [path] if path.is_file() else sorted([*path.glob(PARTS), *path.glob(MERGED)])
    parsed = [(file, *parse(file)) for file in files]
    parsed.sort(key=lambda entry: not entry[2])  # a file without rows binds nobody
    header, rows = expected, []
    for file, found, records in parsed:
        if header is not None and found is not None and records and found.fingerprint != header.fingerprint:
            raise ValueError(_another_run(file, found, header))
        header = header or found
        rows += records
    if header is None:
        raise ValueError(f"no records in {path}: expected {PARTS} or {MERGED}. Name the directory of a test run.")
    return header, rows


def parse(path: Path) -> tuple[Header | None, list[Record]]:
    """One file. The header is None when a kill came before even the first line was finished.

    A last line that cannot be read is what a kill leaves of a row, and is skipped; a merged file is written in one
    piece, so there it is damage like everywhere else: ``ValueError`` with file and line.
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
                rows.append(Record(row["evaluator"], row["index"], row["label"], row["values"], row.get("cost", {})))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if number == len(lines) and path.name != MERGED and not isinstance(error, _OtherFormatError):
                break
            raise ValueError(f"{path}, line {number} is damaged ({error}). Repair or delete that line.") from error
    return header, rows


def merge(rows: Iterable[Record]) -> list[Record]:
    """One row per key, sorted by it. Rows of one key must agree: floats to 1e-4, all else but pictures exactly.

    Two processes may have evaluated one image with different batches, where convolutions round differently.
    """
    merged: dict[tuple[str, int], Record] = {}
    for row in rows:
        kept = merged.setdefault(row.key, row)
        if kept.label != row.label or not _agree(_numbers(kept), _numbers(row)):
            raise ValueError(
                f"two records of {row.evaluator!r}, image {row.index}, disagree: {_brief(kept)} and {_brief(row)}. "
                "One was made with other data, weights or code: delete the part file that holds it."
            )
        merged[row.key] = min(kept, row, key=lambda record: (record_line(record, cost=False), not record.cost))
    return [merged[key] for key in sorted(merged)]


class _OtherFormatError(ValueError):
    """The header is whole, but not one of ours."""


def _header(row: Any) -> Header:
    if not isinstance(row, dict) or row.get("format") != FORMAT:
        raise _OtherFormatError(f"its format is not {FORMAT!r}")
    return Header(str(row["fingerprint"]), dict(row["config"]))


def _plain(value: Any, where: str) -> Any:
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return {name: _plain(entry, f"{where}.{name}") for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry, where) for entry in value]
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float and math.isfinite(value):
        return float(f"{value:.{DIGITS}g}")
    raise ValueError(f"a record must hold plain, finite JSON; {where} is {value!r} ({type(value).__name__})")


def rounded_down(value: float) -> float:
    """The largest number of `DIGITS` digits that is at most ``value``: what may be stored of a lower bound."""
    return float(Context(prec=DIGITS, rounding=ROUND_FLOOR).create_decimal(repr(float(value))))


def _another_run(path: Path, found: Header, header: Header) -> str:
    old, new = dict(_flat(found.config)), dict(_flat(header.config))
    changed = [f"{k}: {old.get(k)!r} -> {new.get(k)!r}" for k in sorted({*old, *new}) if old.get(k) != new.get(k)]
    what = "; ".join(changed[:8]) + (f"; and {len(changed) - 8} more" if len(changed) > 8 else "")
    what = what or "nothing in the configuration itself, so what it points to (weights, data or code)"
    return (
        f"{path} holds records of another configuration. Changed: {what}. "
        f"Write to another directory, go back to that configuration, or delete {path.parent}."
    )


def _flat(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    entries = config.items() if isinstance(config, dict) else enumerate(config) if isinstance(config, list) else ()
    if not config or not entries:
        yield prefix, config
    for name, entry in entries:
        yield from _flat(entry, f"{prefix}.{name}" if prefix else str(name))


def _agree(first: Any, second: Any) -> bool:
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(_agree(first[name], second[name]) for name in first)
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(_agree, first, second))
    if isinstance(first, float) and isinstance(second, float):
        return math.isclose(first, second, rel_tol=1e-4, abs_tol=1e-6)
    return type(first) is type(second) and bool(first == second)


def _numbers(record: Record) -> dict[str, Any]:
    return {name: value for name, value in record.values.items() if name != "images"}


def _brief(record: Record) -> str:
    return json.dumps({"label": record.label, **_numbers(record)}, sort_keys=True)[:160]
