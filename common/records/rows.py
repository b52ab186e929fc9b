"""Lines of a records file, as JSON: a `Header` with the fingerprint of the configuration, then a `Record` each.

Every line ends with the CRC-32 of its other text, ``"crc": "…"``: edited and damaged lines are found on reading.
"""

import json
import zlib
from collections.abc import Iterator
from dataclasses import MISSING, asdict, dataclass, field, fields
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

from common.checks.bounds import bound, check_bound
from common.records.dotted_paths import differences
from common.records.header_rules import HeaderRules
from common.records.record_files import GZIP, files_of, is_records_file, is_whole, opened
from common.records.schema import KINDS, Kind, Record, Role

FORMAT = "robust-diffusion records 2"
SEAL = len(', "crc": "01234567"}')  # bytes at the end of a line
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, RecursionError)  # errors of a damaged line
UNDETERMINED = "undetermined"  # key of a header's configuration: places that cannot be determined, each with the reason


@dataclass(frozen=True)
class Header:
    """First line of a records file: a hash of all that a row depends on, and the configuration to read.

    ``session`` is shared by the processes of one start of a test, and tells its rows from those of earlier starts.
    """

    fingerprint: str
    config: dict[str, Any]
    session: str = field(default="", compare=False)


def header_line(header: Header) -> bytes:
    """First line of a file."""
    row = {"format": FORMAT, "fingerprint": header.fingerprint, "config": header.config}
    row |= {"session": header.session} if header.session else {}
    return sealed(json.dumps(row, sort_keys=True))


def record_line(record: Record, cost: bool = True) -> bytes:
    """Line of one row; the same bytes for the same row. ``cost=False`` leaves its cost out."""
    row = {name: value for name, value in values(record).items() if value != _defaults(record.kind).get(name, MISSING)}
    if cost and record.cost is not None:
        row["cost"] = {name: value for name, value in asdict(record.cost).items() if value is not None}
    return sealed(json.dumps({"kind": record.kind, **row}, sort_keys=True, allow_nan=False, default=asdict))


def sealed(text: str) -> bytes:
    """Line of a JSON object, with its checksum as the last key."""
    body = text.encode()
    return body[:-1] + f', "crc": "{zlib.crc32(body):08x}"}}\n'.encode()


def unsealed(line: bytes) -> Any:
    """Object of a line, without its checksum. Raises ``ValueError`` if it has none or another one, or a key twice."""
    body, seal = line[:-SEAL], line[-SEAL:]
    if not (seal.startswith(b', "crc": "') and seal.endswith(b'"}')):
        raise ValueError("it has no checksum at its end")
    if int(seal[10:18], 16) != zlib.crc32(b"}", zlib.crc32(body)):
        raise ValueError("its checksum is that of another text: it was edited or damaged")
    return json.loads(body + b"}", object_pairs_hook=once)


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object with these keys. Raises ``ValueError`` for a key that comes twice: readers take either value."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(
            f"the key {next(key for n, (key, _) in enumerate(pairs) if key in dict(pairs[:n]))!r} comes twice"
        )
    return found


def read_record(row: dict[str, Any]) -> Record:
    """Record of a parsed line. Raises ``ValueError`` or ``TypeError`` for an unknown kind, key or type."""
    kind = row.pop("kind", None)
    if kind not in KINDS:
        raise ValueError(f"its kind must be one of {', '.join(KINDS)}; got {kind!r}")
    record = KINDS[kind](**row)
    if record.role is Role.WORST_CASE:
        raise ValueError(f"a record's role must not be {Role.WORST_CASE.value!r}, which is derived from several rows")
    return record


def values(record: Record) -> dict[str, Any]:
    """Fields of a row by name, without its cost."""
    return {name: getattr(record, name) for name in _names(record.kind)}


def parse(path: Path) -> tuple[Header | None, list[Record]]:
    """Header and rows of one file, row by row; the header is None when a kill came before the first line was finished.

    A last line without its line feed is a torn row, left by a kill, and is skipped unless it is whole. Merged and
    compressed files are written in one piece, so there it is damage, as every other unreadable line: ``ValueError``
    with file and line.
    """
    header, rows, rules = None, [], HeaderRules({})
    for number, line, ended in _lines(path):
        if number == 1:
            header = first_line(path, line, ended)
            if header is None:
                break
            rules = HeaderRules(header.config)
        elif (row := later_line(path, number, line, ended, rules)) is not None:
            rows.append(row)
    return header, rows


def first_line(path: Path, line: bytes, ended: bool) -> Header | None:
    """Header in the first line of a file; None of a torn one, which has no end. Raises ``ValueError`` for damage."""
    try:
        return _header(line)
    except UNREADABLE as error:
        if not ended and not is_whole(path):
            return None
        if not is_records_file(path):
            raise ValueError(f"{path} holds no records. Name the directory of a test run.") from error
        raise damaged(path, 1, str(error)) from error


def later_line(path: Path, number: int, line: bytes, ended: bool, rules: HeaderRules) -> Record | None:
    """Record of a line that follows the rules of its header; None of a torn one. Raises ``ValueError`` for damage."""
    try:
        row = read_record(unsealed(line))
        rules.check(row)
    except UNREADABLE as error:
        if not ended and not is_whole(path):
            return None
        raise damaged(path, number, str(error)) from error
    return row


def damaged(path: Path, number: int, reason: str, what: str = "") -> ValueError:
    """Error of a line that is not as it was written, with file, line and remedy: to delete it, or ``what`` is named."""
    kept = "Take it from its source again, or without one delete" if path.suffix == GZIP else "Delete"
    what = "the file" if path.suffix == GZIP else what or ("the file" if number == 1 else "that line")
    return ValueError(
        f"{path}, line {number} is damaged ({reason}). {kept} {what} and run the same test again, which evaluates anew "
        "what is missing."
    )


def places(path: Path, key: tuple[Any, ...]) -> str:
    """Files and lines of the rows with this key, for messages: ``part-….jsonl, line 3; records.jsonl, line 2``."""
    lines = ((file, number, row) for file in files_of(path) for number, row in enumerate(parse(file)[1], start=2))
    return "; ".join(f"{file}, line {number}" for file, number, row in lines if row.key == key)


def _lines(path: Path) -> Iterator[tuple[int, bytes, bool]]:
    """(number, line, True if it ended in a line feed) of a file."""
    with opened(path) as file:
        for number in count(1):
            line = file.readline(int(bound("line")) + 1)
            if not line:
                return
            check_bound("line", len(line), f"{path}, line {number}")
            yield number, line.removesuffix(b"\n"), line.endswith(b"\n")


def _header(line: bytes) -> Header:
    row = json.loads(line)  # first as it is: files of another format have no checksum
    if not isinstance(row, dict) or row.get("format") != FORMAT:
        raise ValueError(f"its format is not {FORMAT!r}: another version or program wrote it")
    row = unsealed(line)
    config = dict(row["config"])
    evaluators = config.get("evaluators", [])
    if not isinstance(evaluators, list) or not all(isinstance(part, dict) for part in evaluators):
        raise ValueError(f"the evaluators of its config must be a list of objects; got {str(evaluators)[:60]}")
    return Header(str(row["fingerprint"]), config, str(row.get("session", "")))


@cache
def _names(kind: Kind) -> tuple[str, ...]:
    return tuple(field.name for field in fields(KINDS[kind]) if field.name != "cost")


@cache
def _defaults(kind: Kind) -> dict[str, Any]:
    cls = KINDS[kind]
    known = {field.name: field.default for field in fields(cls) if field.default is not MISSING}
    made = {field.name: field.default_factory() for field in fields(cls) if field.default_factory is not MISSING}
    return known | made


def other_configuration(path: Path, own: Header, header: Header, content: str = "records") -> str:
    """Message for a file with rows of the configuration ``own``, where those of ``header`` are expected."""
    changed = sorted(f"{place}: {old!r} -> {new!r}" for place, old, new in differences(own.config, header.config))
    listed = "; ".join(changed[:8]) + (f"; and {len(changed) - 8} more" if len(changed) > 8 else "")
    listed = listed or "nothing in the configuration itself, so what it points to (weights, data or code)"
    return (
        f"{path} holds {content} of another configuration. Changed: {listed}. "
        f"Write to another directory, go back to that configuration, or delete {path.parent}."
    )
