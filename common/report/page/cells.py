"""Values that the templates compute from a table, an image or a figure."""

import base64
from dataclasses import dataclass

from common.report.figures.image_grids import COARSE
from common.report.tables.table import Table, as_cell

IN_LINE = 4  # columns with intervals beside the number; with more they stand below it


@dataclass(frozen=True)
class NameCell:
    """Identifying cell of a row: ``kind`` is "name" of the first column, "again" where it repeats the row above."""

    text: str
    kind: str


def named(shown: Table, number: int) -> list[NameCell]:
    """Identifying cells of one row of a table."""
    row, above = shown.rows[number], shown.rows[number - 1] if number else []
    cells = []
    for place, entry in enumerate(row[: shown.names]):
        repeats = row[: place + 1] == above[: place + 1] and place < min(len(row), shown.names) - 1
        cells.append(NameCell(str(entry), "again" if repeats else "name" if place == 0 else "about"))
    return cells


def fits_a_line(shown: Table) -> bool:
    """True of a table with few enough intervals to write them beside their numbers."""
    cells = [list(map(as_cell, row)) for row in shown.rows]
    return sum(any(row[place].note for row in cells) for place in range(len(shown.columns))) <= IN_LINE


def is_coarse(png: str) -> bool:
    """True of a small image, whose pixels are shown; ``png`` in base64."""
    return int.from_bytes(base64.b64decode(png[:32])[16:20], "big") <= COARSE  # bytes 16 to 19 hold the width


def address(svg: bytes) -> str:
    """Data address of an SVG."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"
