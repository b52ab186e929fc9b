"""Rows of a records directory as columns, read in one pass: `Table`, the rows of each evaluation."""

import gc
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import accumulate
from typing import Any, TypeVar, overload

from common.records.column_rows import Rows, is_alike
from common.records.schema import Record, Source

R = TypeVar("R", bound=Record)


class Table(Sequence[Record]):
    """Rows of several evaluations, sorted by key; reads like a list of records.

    ``parts`` are the rows of each evaluation by index, sorted by source.
    """

    def __init__(self, parts: Iterable[Rows[Any]]) -> None:
        self.parts = sorted(parts, key=lambda rows: (rows.source, rows.kind.kind.value))

    @staticmethod
    def of(records: Iterable[Record]) -> "Table":
        """Table of some rows, at most one per key; a table as it is."""
        if isinstance(records, Table):
            return records
        groups: dict[tuple[Source, type[Record]], list[Record]] = defaultdict(list)
        for row in records:
            groups[row.source, type(row)].append(row)
        return Table(Rows.of(sorted(rows, key=lambda row: row.index)) for rows in groups.values())

    def select(self, kind: type[R], keep: Callable[[Rows[R]], bool] = lambda rows: True) -> list[Rows[R]]:
        """Evaluations whose rows are of a kind."""
        return [rows for rows in self.parts if issubclass(rows.kind, kind) and keep(rows)]

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(map(len, self.parts)))

    def __len__(self) -> int:
        return self._ends[-1] if self.parts else 0

    @overload
    def __getitem__(self, place: int) -> Record: ...
    @overload
    def __getitem__(self, place: slice) -> list[Record]: ...
    def __getitem__(self, place: int | slice) -> Record | list[Record]:
        if isinstance(place, slice):
            return [self[one] for one in range(len(self))[place]]
        number = range(len(self))[place]
        part = bisect_right(self._ends, number)
        row: Record = self.parts[part][number - self._ends[part] + len(self.parts[part])]
        return row

    def __iter__(self) -> Iterator[Record]:
        for rows in self.parts:
            yield from rows

    def __eq__(self, other: object) -> bool:
        return is_alike(self, other)

    __hash__ = None  # type: ignore[assignment]


@contextmanager
def without_collection() -> Iterator[None]:
    """Reading without Python's search for unused cycles, which looks at every object again and again."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
