"""The headline on a terminal of 80 columns: intervals stand below their numbers."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from common.report.remarks import Level, Remark
from common.report.scores import HeadlineRow, Score
from common.report.tables.table import percent

MOST = 20  # rows
MARKS: dict[Level, tuple[str, str]] = {"failed": ("✗", "bold red"), "warning": ("!", "yellow"), "note": ("·", "dim")}


def headline_table(rows: Sequence[HeadlineRow]) -> Table:
    """One row per defence: accuracies in percent, below them their 95 % intervals, below the name the attack.

    A column without any number is left out; rows after the first twenty are on the page alone.
    """
    table = Table(box=None, header_style="", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(_stacked("Defence", "attack" if any(row.attack for row in rows) else ""), overflow="fold")
    shown = [(head, cells) for head, cells in _columns(rows) if any(cell is not None for cell in cells)]
    for head, _ in shown:
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column(_stacked("Images", ""), justify="right", no_wrap=True)
    for place, row in enumerate(rows[:MOST]):
        cells = [_score(entries[place]) for _, entries in shown]
        table.add_row(_name(row, rows), *cells, "–".join(map(str, _ends(row.images))) or "0")
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


def _columns(rows: Sequence[HeadlineRow]) -> list[tuple[Text, list[Score | None]]]:
    radii = {row.radius for row in rows if row.radius is not None}
    certified = ", ".join(f"r = {radius:g}" for radius in sorted(radii))
    draws = {row.draws for row in rows if row.worst_draw is not None}
    worst = f"Worst of {max(draws)}" if len(draws) == 1 else "Worst draw"
    return [
        (_stacked("Clean", "%"), [row.clean for row in rows]),
        (_stacked("Robust", _threat(rows) or "%"), [row.robust for row in rows]),
        (_stacked(worst, "draws" if len(draws) == 1 else ""), [row.worst_draw for row in rows]),
        (_stacked("Certified", certified), [row.certified for row in rows]),
    ]


def _threat(rows: Sequence[HeadlineRow]) -> str:
    """The budget of all attacks; empty if they differ."""
    threats = {row.threat for row in rows if row.robust is not None}
    return threats.pop() if len(threats) == 1 else ""


def _name(row: HeadlineRow, rows: Sequence[HeadlineRow]) -> Text:
    own = "" if _threat(rows) else row.threat
    return _stacked(row.name, ", ".join(part for part in (row.attack, own) if part), "bold")


def _score(score: Score | None) -> Text:
    if score is None:
        return Text("–", "dim")
    return _stacked(percent(score.value), f"{percent(score.low)}–{percent(score.high)}", "bold")


def _stacked(above: str, below: str, style: str = "") -> Text:
    return Text.assemble((above, style), (f"\n{below}" if below else "", "dim"))


def _ends(numbers: Sequence[int]) -> Sequence[int]:
    return numbers if len(numbers) < 2 else [numbers[0], numbers[-1]]
