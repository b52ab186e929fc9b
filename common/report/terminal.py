"""The headline on a terminal of 80 columns."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from common.report.headline_table import Stacked, headline_table
from common.report.remark import Remark, Severity
from common.report.scores import HeadlineRow

MOST = 20  # rows
MARKS: dict[Severity, tuple[str, str]] = {"failed": ("✗", "bold red"), "warning": ("!", "yellow"), "note": ("·", "dim")}


def score_table(rows: Sequence[HeadlineRow]) -> Table:
    """The headline table; rows after the first twenty are on the page alone."""
    shown = headline_table(rows)
    table = Table(box=None, header_style="", pad_edge=False, padding=(0, 2, 0, 0))
    for place, head in enumerate(shown.heads):
        table.add_column(_text(head), justify="right" if place else "left", no_wrap=place > 0, overflow="fold")
    for row in shown.rows[:MOST]:
        table.add_row(*(Text("–", "dim") if entry is None else _text(entry, "bold") for entry in row))
    if len(rows) > MOST:
        table.add_row(Text(f"{len(rows) - MOST} more on the page", "dim"))
    return table


def remark_list(remarks: Sequence[Remark]) -> Table:
    """The sentences, each behind a mark of its gravity."""
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column()
    grid.add_column(overflow="fold")
    grid.add_row()
    for remark in remarks:
        mark, style = MARKS[remark.level]
        grid.add_row(Text(mark, style), Text(remark.sentence))
    return grid


def _text(entry: Stacked, style: str = "") -> Text:
    return Text.assemble((entry.text, style), (f"\n{entry.note}" if entry.note else "", "dim"))
