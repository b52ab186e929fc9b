"""A table of a report, and its form as a spreadsheet."""

from dataclasses import dataclass, field

from common.files.spreadsheets import as_csv
from common.records.intervals import Share


@dataclass(frozen=True)
class Cell:
    """Finished entry: ``text``, a ``note`` beside it in small print, and whether the text is ``strong``."""

    text: str
    note: str = ""
    strong: bool = False


Entry = Share | Cell | str | int | None


@dataclass(frozen=True)
class Table:
    """``rows`` of entries below ``columns``. A `Share` is shown with its interval, None does not apply.

    The first ``names`` entries of a row identify it. ``notes`` stand below. ``prose`` entries are words.
    """

    title: str
    columns: list[str]
    rows: list[list[Entry]]
    names: int = 2
    notes: list[str] = field(default_factory=list)
    prose: bool = False


def percent(share: float) -> str:
    """``0.71484`` -> ``"71.5"``."""
    return f"{100 * share:.1f}"


def bounds(share: Share) -> str:
    """The interval in percent: ``"[67.4, 75.3]"``."""
    return f"[{percent(share[1])}, {percent(share[2])}]"


def as_cell(entry: Entry) -> Cell:
    """Any entry as it is shown."""
    if isinstance(entry, tuple):
        return Cell(percent(entry[0]), bounds(entry), strong=True)
    return entry if isinstance(entry, Cell) else Cell("–" if entry is None else str(entry))


def table_csv(table: Table) -> str:
    """A finished table as CSV, a line per row; the notes beside entries get a column of their own."""
    cells = [[as_cell(entry) for entry in row] for row in table.rows]
    noted = [any(row[place].note for row in cells) for place in range(len(table.columns))]
    heads = zip(table.columns, noted, strict=True)
    lines = [[name for column, note in heads for name in [column, f"{column}, 95 %"][: 1 + note]]]
    for row in cells:
        pairs = zip(row, noted, strict=True)
        lines.append([entry for cell, note in pairs for entry in [cell.text, cell.note][: 1 + note]])
    return as_csv(lines)
