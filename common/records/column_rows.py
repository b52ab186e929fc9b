"""Rows of one evaluation as columns; a `Record` is made of a row on access."""

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Generic, TypeVar, cast, overload

import numpy as np

from common.records.column_fields import COSTS, Field, Unfit, column_fields
from common.records.columns import Column, Lists, Values, constant, equal, join, picked, stacked, take
from common.records.schema import Cost, Record, Source

R_co = TypeVar("R_co", bound=Record, covariant=True)
NOWHERE = np.zeros((0, 2), np.int64)  # places of rows that are from no file


class Rows(Sequence[R_co], Generic[R_co]):
    """Rows of one ``source`` and one ``kind``, a column per field; reads like a list of records.

    ``columns`` by name of the field: arrays (n,), `Lists` (n lists); unknown values as `column_fields` has them.
    ``costs`` (n, 3) float64 by field of `Cost`, NaN where unknown. ``places`` (n, 2) int64: number of the file that a
    row is from, and its line; empty for rows that are from no file.
    """

    def __init__(
        self,
        kind: type[R_co],
        source: Source,
        columns: Mapping[str, Column],
        costs: Values,
        places: Values = NOWHERE,
    ) -> None:
        self.kind, self.source, self.columns, self.costs = kind, source, columns, costs
        self.places = places

    @staticmethod
    def of(records: Sequence[R_co]) -> "Rows[R_co]":
        """Columns of rows of one evaluation and kind, at least one; rows that are columns already as they are."""
        if isinstance(records, Rows):
            return records
        kind, source = type(records[0]), records[0].source
        fields = column_fields(kind)
        columns = {name: field.read([getattr(row, name) for row in records]) for name, field in fields.items()}
        return Rows(kind, source, columns, costs_of([row.cost for row in records]))

    @staticmethod
    def joined(parts: Sequence["Rows[R_co]"]) -> "Rows[R_co]":
        """Rows of one evaluation and kind, one part below the other, without their places; the parts are emptied."""
        first = parts[0]
        columns = {name: join([_popped(part.columns, name) for part in parts]) for name in list(first.columns)}
        return Rows(first.kind, first.source, columns, stacked([part.costs for part in parts]))

    def __len__(self) -> int:
        return len(self.costs)

    @overload
    def __getitem__(self, place: int) -> R_co: ...
    @overload
    def __getitem__(self, place: slice) -> "Rows[R_co]": ...
    def __getitem__(self, place: int | slice) -> "R_co | Rows[R_co]":
        if isinstance(place, slice):
            return self.take(np.arange(len(self))[place])
        number = range(len(self))[place]
        return self._first if number == 0 else self._made(number)

    def __iter__(self) -> Iterator[R_co]:
        return map(self._made, range(len(self)))

    def copy(self) -> "Rows[R_co]":
        """The same columns, which stay when those of the copy are emptied."""
        return Rows(self.kind, self.source, dict(self.columns), self.costs, self.places)

    def take(self, order: Values) -> "Rows[R_co]":
        """Some rows, by their numbers or by a mask."""
        places = self.places[order] if len(self.places) else NOWHERE
        columns = {name: take(column, order) for name, column in self.columns.items()}
        return Rows(self.kind, self.source, columns, picked(self.costs, order), places)

    def array(self, name: str) -> Values:
        """Column (n,) of a field that is no list."""
        return cast(Values, self.columns[name])

    def lists(self, name: str) -> Lists:
        """Column of a field with a list per row."""
        return cast(Lists, self.columns[name])

    @property
    def image(self) -> Values:
        """Indices of the images (n,)."""
        return self.array("index")

    @property
    def label(self) -> Values:
        """Classes of the images (n,)."""
        return self.array("label")

    def same(self, one: Values, two: Values, other: "Rows[Any] | None" = None) -> Values:
        """Mask (m,): rows number ``one`` (m,) equal rows number ``two`` (m,) of these, or of ``other``; cost aside."""
        columns, same = (self if other is None else other).columns, np.ones(len(one), bool)
        for name, column in self.columns.items():
            same &= np.asarray(equal(take(column, one), take(columns[name], two)), bool)
        return same

    def __eq__(self, other: object) -> bool:
        return is_alike(self, other)

    __hash__ = None  # type: ignore[assignment]

    @cached_property
    def _first(self) -> R_co:
        """The first row, which stands for the settings of all."""
        return self._made(0)

    def _made(self, row: int) -> R_co:
        """Record of a row, whose values were validated before."""
        record = object.__new__(self.kind)
        fields = column_fields(self.kind)
        record.__dict__.update({name: field.item(self.columns[name], row) for name, field in fields.items()})
        record.__dict__.update(self.source._asdict(), cost=_cost(self.costs[row]))
        return record


def common_images(parts: Sequence[Rows[Any]]) -> Values:
    """Indices of the images that all evaluations have, ascending."""
    return _joined(parts, np.intersect1d)


def common_places(first: Rows[Any], second: Rows[Any]) -> tuple[Values, Values]:
    """Places in both evaluations of the images that both have, in ascending order of the images."""
    _, ours, theirs = np.intersect1d(first.image, second.image, assume_unique=True, return_indices=True)
    return ours, theirs


def all_images(parts: Sequence[Rows[Any]]) -> Values:
    """Indices of the images that any evaluation has, ascending."""
    return _joined(parts, np.union1d)


def _joined(parts: Sequence[Rows[Any]], join: Callable[[Values, Values], Values]) -> Values:
    found = parts[0].image
    for rows in parts[1:]:
        if not np.array_equal(found, rows.image):  # most evaluations have the same images
            found = join(found, rows.image)
    return found


def on_images(rows: Rows[R_co], images: Values) -> Rows[R_co]:
    """The rows of some images; ``images`` ascend, and so do the rows' indices."""
    if np.array_equal(images, rows.image):
        return rows
    return rows.take(np.isin(rows.image, images))


def is_alike(rows: Sequence[Record], other: object) -> bool:
    """True if another sequence holds equal records in the same order."""
    if not isinstance(other, Sequence) or len(rows) != len(other):
        return False
    return all(map(operator.eq, rows, other))


def filled(kind: type[Record], given: Mapping[str, Column], n: int) -> dict[str, Column]:
    """All columns of ``n`` rows of a kind: the given ones, and the others at their defaults."""
    fields = column_fields(kind)
    return {name: given[name] if name in given else _repeated(field, n) for name, field in fields.items()}


def _repeated(field: Field, n: int) -> Column:
    column = field.blank
    if column is None:
        raise Unfit
    if isinstance(column, Lists):
        return Lists(np.tile(column.flat, n), constant(column.lengths, n))
    return constant(column, n)


def unknown_costs(n: int) -> Values:
    """Costs (n, 3) of rows without any."""
    return constant(np.full((1, len(COSTS)), np.nan), n)


def costs_of(values: Sequence[Cost | None]) -> Values:
    """Costs (n, 3) of rows."""
    found: Values = np.full((len(values), len(COSTS)), np.nan)
    for place, cost in enumerate(values):
        if cost is not None:
            found[place] = [np.nan if (value := getattr(cost, name)) is None else value for name in COSTS]
    return found


def _cost(values: Values) -> Cost | None:
    known = [None if np.isnan(value) else float(value) for value in values]
    evaluations, seconds, peak = known
    unknown = all(value is None for value in known)
    return None if unknown else Cost(evaluations, seconds, None if peak is None else int(peak))


def _popped(columns: Mapping[str, Column], name: str) -> Column:
    return cast(dict[str, Column], columns).pop(name)
