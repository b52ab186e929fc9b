"""Lines of a merged file that the part files beside it hold as well, which are recognised by their text."""

import re

import numpy as np

from common.records.columns import Values
from common.records.rows import SEAL

_COST = re.compile(rb'"cost": \{[^{}]*\}, ')  # a merged file is without costs


class KnownLines:
    """Hashes of the lines that were read, 64 bits under a key of this process, without cost and checksum."""

    def __init__(self) -> None:
        self._added: list[Values] = []
        self._sorted = np.zeros(0, np.int64)

    def add(self, block: bytes) -> None:
        """Add the lines of a block, whose rows are valid."""
        self._added.append(_hashes(_COST.sub(b"", block)))

    def hold(self, block: bytes) -> bool:
        """True if every line of a block was added. Its checksums are verified elsewhere."""
        if self._added:
            self._sorted = np.sort(np.concatenate([self._sorted, *self._added]))
            self._added = []
        hashes = _hashes(block)
        places = np.searchsorted(self._sorted, hashes).clip(max=len(self._sorted) - 1)
        return bool(len(self._sorted) and (self._sorted[places] == hashes).all())


def _hashes(block: bytes) -> Values:
    lines = block[:-1].split(b"\n")
    return np.fromiter((hash(line[:-SEAL]) for line in lines), np.int64, len(lines))
