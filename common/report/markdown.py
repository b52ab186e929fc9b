"""Tables of a report as Markdown: equal bytes for equal records."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from common.naming.outside_text import plain
from common.report.tables.table import Cell, Entry, Table, as_cell

SPECIAL = re.compile(r"[\\`*<>|&~]|\](?=[(\[:])|(?<!\w)_|_(?!\w)")


def markdown(table: Table) -> str:
    """A table as Markdown of GitHub, intervals beside their numbers, and its notes as a list below it."""
    heads = [escaped(column) for column in table.columns]
    rules = ["---" if place < table.names or table.prose else "---:" for place in range(len(heads))]
    lines = [_line(heads), f"|{'|'.join(rules)}|", *(_line(map(_cell, row)) for row in table.rows)]
    notes = [f"* {escaped(note)}" for note in table.notes]
    return "\n".join([*lines, "", *notes] if notes and table.rows else notes or lines) + "\n"


def part_of(table: Table, columns: Sequence[str] = (), names: Sequence[str] = ()) -> Table:
    """The table with the columns that identify its rows and the named ones, in this order; all if none is named.

    ``names``: only rows that any of these identifies. Raises ``ValueError`` for a name that is no column,
    that of several, or of no row.
    """
    known = table.columns[table.names :]
    _check_known("columns", columns, known)
    identified = [[str(entry) for entry in row[: table.names]] for row in table.rows]
    _check_known("rows", names, list(dict.fromkeys(name for row in identified for name in row)))
    chosen = [table.columns.index(name, table.names) for name in columns]
    places = [*range(table.names), *(chosen or range(table.names, len(table.columns)))]
    kept = zip(table.rows, identified, strict=True)
    rows = [[row[place] for place in places] for row, own in kept if not names or not {*names}.isdisjoint(own)]
    return replace(table, columns=[table.columns[place] for place in places], rows=rows)


def _check_known(what: str, names: Sequence[str], known: Sequence[str]) -> None:
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"its {what} are {' | '.join(known)}; got {' | '.join(unknown)}")
    if several := [name for name in names if known.count(name) > 1]:
        raise ValueError(f"its {what} must have names of their own to be chosen; several are {' | '.join(several)}")


def escaped(text: str) -> str:
    """Text in one line, with a backslash before what Markdown would take for a sign of its own."""
    return SPECIAL.sub(lambda found: f"\\{found[0]}", " ".join(plain(text).split()))


def _line(entries: Iterable[str]) -> str:
    return f"| {' | '.join(entries)} |"


def _cell(entry: Entry) -> str:
    if isinstance(entry, tuple):
        shown = as_cell(entry)
        return f"{shown.text} {shown.note}"
    cell = as_cell(entry)
    text = f"**{escaped(cell.text)}**" if isinstance(entry, Cell) and cell.strong else escaped(cell.text)
    return f"{text} {escaped(cell.note)}".strip()
