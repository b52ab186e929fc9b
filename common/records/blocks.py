"""Lines of a records file by the million: blocks of them, their checksums, and their objects, each block at once."""

import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from common.checks.bounds import bound, check_bound
from common.records.columns import Values
from common.records.rows import SEAL, once

SIZE = 1 << 20  # bytes of a block: few calls for many lines, whose objects stay in the cache of a processor
_SEAL_START, _SEAL_END = b', "crc": "', b'"}'
NEWLINE = b"\n"
COLON = ord(":")
_NO_DIGIT = 255
_HEX = np.full(256, _NO_DIGIT, np.uint8)
_HEX[list(b"0123456789abcdef")] = range(16)
_DIGITS = np.arange(len(_SEAL_START), len(_SEAL_START) + 8)
_LETTERS = np.array([*range(len(_SEAL_START)), *range(SEAL - len(_SEAL_END), SEAL)])
_STEPS = np.array([~zlib.crc32(bytes([byte ^ 255])) & 0xFFFFFFFF ^ 0xFFFFFF for byte in range(256)], np.uint32)
_EXPECTED = np.frombuffer(_SEAL_START + _SEAL_END, np.uint8)

Row = dict[str, Any]


def blocks(file: BinaryIO, path: Path, number: int) -> Iterator[bytes]:
    """Whole lines from the place of ``file`` on, `SIZE` bytes and the rest of the last line at a time.

    The last block may end without a line feed. ``number`` is that of the next line. Raises ``ValueError`` for a line
    that is longer than the bound "line", before it is read.
    """
    longest = int(bound("line"))
    while block := file.read(min(SIZE, longest)):
        if not block.endswith(b"\n"):
            block += file.readline(longest + 1)
        start = block.rfind(b"\n", 0, len(block) - 1) + 1  # of the last line
        count = block.count(NEWLINE)
        check_bound("line", len(block) - start, f"{path}, line {number + count - block.endswith(NEWLINE)}")
        yield block
        number += count


def objects(block: bytes) -> list[Row] | None:
    """Objects of the lines of a block that ends in a line feed, with their checksums as a key; None if any line is not
    as the writer leaves it.

    All are parsed as one list. Each starts with a brace and ends with its checksum, so that none can reach into the
    next unless it is inside a list of objects, which the readers of columns refuse.
    """
    if not are_sealed(block):
        return None
    text = b"[" + block[:-1].replace(b"\n", b",") + b"]"
    try:
        rows = json.loads(text)
        if not _are_rows(rows, block.count(b"\n")):
            return None
        if b"\\" in block or not _colons_are_of_keys(block, rows):
            rows = json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError):
        return None
    return rows if _are_rows(rows, block.count(b"\n")) else None


def _are_rows(rows: Any, count: int) -> bool:
    return len(rows) == count and set(map(type, rows)) <= {dict}


def _colons_are_of_keys(block: bytes, rows: Sequence[Row]) -> bool:
    """True if the text has as many colons as its objects have keys, and their strings colons: then no key comes twice.

    Only for a text without escapes.
    """
    colons = int(np.count_nonzero(np.frombuffer(block, np.uint8) == COLON))
    inside = [part for name in ("cost", "images") for row in rows if type(part := row.get(name)) is dict]
    count = colons - sum(map(len, rows)) - sum(map(len, inside))
    return count == 0 or count == sum(value.count(":") for row in rows for value in row.values() if type(value) is str)


def are_sealed(block: bytes) -> bool:
    """True if every line starts with a brace and ends with the CRC-32 of its other text."""
    characters = np.frombuffer(block, np.uint8)
    ends = np.flatnonzero(characters == NEWLINE[0])
    starts = np.concatenate([[0], ends[:-1] + 1])
    if (ends - starts).min() <= SEAL or (characters[starts] != ord("{")).any():
        return False
    seals = characters[ends[:, None] + np.arange(-SEAL, 0)]
    digits = _HEX[seals[:, _DIGITS]]
    if (seals[:, _LETTERS] != _EXPECTED).any() or (digits == _NO_DIGIT).any():
        return False
    stated = (digits.astype(np.uint32) << np.arange(28, -4, -4, dtype=np.uint32)).sum(1, dtype=np.uint32)
    return bool((stated == _checksums(block, starts.tolist(), (ends - SEAL).tolist())).all())


def _checksums(block: bytes, starts: Sequence[int], ends: Sequence[int]) -> Values:
    """CRC-32 of each part of the block with a closing brace behind it."""
    view, crc32 = memoryview(block), zlib.crc32
    sums = np.array([crc32(view[start:end]) for start, end in zip(starts, ends, strict=True)], np.uint32)
    register = ~sums
    found: Values = ~(_STEPS[(register ^ ord("}")) & 255] ^ (register >> 8))
    return found
