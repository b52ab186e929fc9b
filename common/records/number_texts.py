"""Numbers in lines that differ in nothing else, many lines at once: `Runs` of digits and signs, and their values."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from common.records.column_fields import Unfit
from common.records.columns import Values
from common.records.rows import SEAL

LONGEST = 15  # digits of an integer that a float holds
_ZERO, _MINUS, _NEWLINE = b"0-\n"
_TENS = 10.0 ** np.arange(LONGEST + 1)
_CHECKSUM = np.arange(SEAL - len(', "crc": "'), len('"}'), -1)  # before the end of a line


@dataclass(frozen=True)
class Runs:
    """Runs of digits and signs in m lines whose other text is the same: ``starts`` and ``stops`` (m, k) in ``text``.

    Checksums are blotted out in ``text``.
    """

    text: Values
    starts: Values
    stops: Values

    @property
    def line(self) -> bytes:
        """The first line."""
        return self.text[: int(np.argmax(self.text == _NEWLINE))].tobytes()

    @cached_property
    def lengths(self) -> Values:
        """Characters of the runs (m, k)."""
        return np.asarray(self.stops - self.starts)

    @cached_property
    def constant(self) -> Values:
        """Mask (k,) of the runs that are the same in all lines."""
        same = np.asarray((self.lengths == self.lengths[0]).all(0))
        runs = np.flatnonzero(same)
        lengths = self.lengths[0, runs]
        first = np.cumsum(lengths) - lengths
        within = np.arange(lengths.sum()) - np.repeat(first, lengths)
        letters = self.text[self.starts[:, np.repeat(runs, lengths)] + within]
        if len(runs):
            same[runs] = np.logical_and.reduceat((letters == letters[0]).all(0), first)
        return same

    def numbers(self, run: int, decimal: bool) -> Values:
        """Numbers (m,) of a run, whose decimals are the next one where they are ``decimal``.

        Raises `Unfit` where one is no JSON number, or has more digits than a float.
        """
        stops = self.stops[:, run]
        negative = self.text[self.starts[:, run]] == _MINUS
        digits = self.lengths[:, run] - negative
        values = self._natural(run, digits)
        if ((digits > 1) & (self.text[stops - digits] == _ZERO)).any():
            raise Unfit
        if decimal:
            places = self.lengths[:, run + 1]
            if (digits + places).max() > LONGEST:
                raise Unfit
            # both are exact, so that their quotient is the float nearest to the decimal fraction
            values = (values * _TENS[places] + self._natural(run + 1, places)) / _TENS[places]
        return np.where(negative, -values, values)

    def _natural(self, run: int, lengths: Values) -> Values:
        """Natural numbers (m,) of the last characters of a run. Raises `Unfit` for what is none."""
        width = int(lengths.max())
        if lengths.min() < 1 or width > LONGEST:
            raise Unfit
        back = np.arange(width, 0, -1)
        digits = self.text[self.stops[:, run, None] - back] - np.uint8(_ZERO)
        if lengths.min() < width:
            digits[back > lengths[:, None]] = 0
        if digits.max() > 9:
            raise Unfit
        return np.asarray(digits @ _TENS[back - 1])


def runs_of(block: bytes) -> Runs | None:
    """Runs of digits and signs in sealed lines; None unless the lines are the same without them and the checksums."""
    text = np.frombuffer(block, np.uint8).copy()
    ends = np.flatnonzero(text == _NEWLINE)
    text[ends[:, None] - _CHECKSUM] = ord("x")
    inside = (text - np.uint8(_ZERO) < 10) | (text == _MINUS)
    edges = np.flatnonzero(inside[1:] != inside[:-1]) + 1
    starts, stops, rest, m = edges[::2], edges[1::2], text[~inside], len(ends)
    if len(starts) % m or len(rest) % m:
        return None
    rest = rest.reshape(m, -1)
    lengths = stops - starts
    before = (starts - np.cumsum(lengths) + lengths).reshape(m, -1) - rest.shape[1] * np.arange(m)[:, None]
    if (rest != rest[0]).any() or (before != before[0]).any():
        return None
    return Runs(text, starts.reshape(m, -1), stops.reshape(m, -1))
