"""Columns of rows: NumPy arrays, one entry per row, and lists of unequal lengths as one array."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

Values = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Lists:
    """A list per row: all values one after another in ``flat``, and ``lengths`` (n,), -1 where a row has None."""

    flat: Values
    lengths: Values

    def __len__(self) -> int:
        return len(self.lengths)

    @cached_property
    def counts(self) -> Values:
        """Numbers of values (n,), 0 where a row has None."""
        return self.lengths.clip(min=0)

    @cached_property
    def starts(self) -> Values:
        """Place of each row's first value (n,)."""
        starts: Values = np.cumsum(self.counts) - self.counts
        return starts

    @cached_property
    def width(self) -> int | None:
        """The length that all rows share; None if they differ or there is no row."""
        first = int(self.lengths[0]) if len(self.lengths) else -1
        alike = is_constant(self.lengths) or bool((self.lengths == first).all())
        return first if first >= 0 and alike else None

    @property
    def matrix(self) -> Values:
        """Values (n, width) of lists of one length."""
        values: Values = self.flat.reshape(len(self), self.width or 0)
        return values

    def item(self, row: int) -> list[Any] | None:
        """The list of one row as plain Python values."""
        start, length = int(self.starts[row]), int(self.lengths[row])
        return None if length < 0 else self.flat[start : start + length].tolist()

    def take(self, order: Values) -> "Lists":
        """The lists of some rows, by their numbers or by a mask."""
        lengths = picked(self.lengths, order)
        if self.width is not None:
            return Lists(self.matrix[order].reshape(-1), lengths)
        counts, starts = lengths.clip(min=0), self.starts[order]
        ends = np.cumsum(counts)
        places = np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - counts), counts)
        return Lists(self.flat[places], lengths)

    def totals(self, values: Values) -> Values:
        """Sum over each row (n,) of ``values``, one for each entry of ``flat``."""
        if self.width is not None:
            return np.asarray(values.reshape(len(self), self.width).sum(1))
        sums: Values = np.concatenate([[0], np.cumsum(values)])
        return np.asarray(sums[self.starts + self.counts] - sums[self.starts])

    def equal(self, other: "Lists") -> Values:
        """Mask (n,) of the rows with the same list in ``other``."""
        same: Values = self.lengths == other.lengths
        if self.width is not None and self.width == other.width:
            return np.asarray((self.matrix == other.matrix).all(1))
        rows = np.flatnonzero(same)
        one, two = self.take(rows), other.take(rows)
        same[rows] = one.totals((one.flat != two.flat).astype(np.int64)) == 0
        return same


Column = Values | Lists


def constant(column: Values, n: int) -> Values:
    """The first value of a column as one of ``n`` rows, which takes no memory."""
    return np.broadcast_to(column[:1], (n, *column.shape[1:]))


def is_constant(column: Values) -> bool:
    """True of a column that `constant` made."""
    return len(column) > 1 and column.strides[0] == 0


def take(column: Column, order: Values) -> Column:
    """Some rows of a column, by their numbers or by a mask."""
    return column.take(order) if isinstance(column, Lists) else picked(column, order)


def picked(column: Values, order: Values) -> Values:
    """Some rows of an array, by their numbers or by a mask; a constant column stays constant."""
    if is_constant(column):
        return constant(column, int(order.sum()) if order.dtype == np.bool_ else len(order))
    return column[order]


def join(parts: Sequence[Column]) -> Column:
    """Columns one below the other."""
    lists = [part for part in parts if isinstance(part, Lists)]
    if lists:
        return Lists(stacked([part.flat for part in lists]), stacked([part.lengths for part in lists]))
    return stacked([part for part in parts if not isinstance(part, Lists)])


def stacked(parts: Sequence[Values]) -> Values:
    """Arrays one below the other; constant ones of one value stay constant."""
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    if all(is_constant(part) and equal(part[:1], first[:1]).all() for part in parts):
        return constant(first, sum(map(len, parts)))
    return np.concatenate(parts)


def equal(one: Column, other: Column) -> Values:
    """Mask (n,) of the rows that are the same in both columns; what is unknown (NaN) equals itself."""
    if isinstance(one, Lists) and isinstance(other, Lists):
        return one.equal(other)
    same: Values = np.asarray(one == other)
    if isinstance(one, np.ndarray) and one.dtype.kind == "f":
        same = same | (np.isnan(one) & np.isnan(np.asarray(other)))
    return same
