"""The numbers: tables for the console, the page and a spreadsheet, all from the same summaries."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.table import Table as RichTable
from rich.text import Text

from common.records.store import Summary
from common.report.runs import Run

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Cell:
    """A finished entry: ``text``, a ``note`` beside it in small, and whether it is ``strong``."""

    text: str
    note: str = ""
    strong: bool = False


Entry = Triple | Cell | str | int | None


@dataclass(frozen=True)
class Table:
    """``rows`` of entries below ``columns``. A triple is a share with its interval, None does not apply.

    The first ``names`` entries of a row say what it is about. ``notes`` stand below. ``prose`` entries are words.
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


def bounds(triple: Triple) -> str:
    """The interval in percent: ``"[67.4, 75.3]"``."""
    return f"[{percent(triple[1])}, {percent(triple[2])}]"


def as_cell(entry: Entry) -> Cell:
    """Any entry as it is shown."""
    if isinstance(entry, tuple):
        return Cell(percent(entry[0]), bounds(entry), strong=True)
    return entry if isinstance(entry, Cell) else Cell("–" if entry is None else str(entry))


def accuracy_table(runs: Sequence[Run]) -> Table:
    """One row per run and evaluator that predicts; draws are counted where they differ from one."""
    columns = ["Defence", "Evaluation", "Images", "Draws", "Average", "Worst draw", "Majority", "Worst draw, no attack"]
    pairs = [(run, summary) for run in runs for summary in run.summaries if run.kind(summary.evaluator) < 2]
    return Table("Accuracy, %", columns, [_accuracies(run, summary) for run, summary in pairs])


def _accuracies(run: Run, summary: Summary) -> list[Entry]:
    draws = len(run.rows(summary.evaluator)[0].values["predictions"])
    metrics = summary.metrics
    tail = [metrics.get(f"{name}@{draws}") for name in ("Wor", "MV", "clean Wor")]
    return [run.name, summary.evaluator, summary.n, draws, metrics["Avg"], *tail]


def to_rich(table: Table) -> RichTable:
    """For the console."""
    rich = RichTable(title=table.title, title_justify="left", title_style="bold", header_style="dim", box=None)
    for position, column in enumerate(table.columns):
        left = position < table.names or table.prose
        rich.add_column(column, justify="left" if left else "right", overflow="fold")
    for row in table.rows:
        rich.add_row(*(_rich(as_cell(entry)) for entry in row))
    return rich


def _rich(cell: Cell) -> Text:
    text = Text(cell.text, "bold" if cell.strong else "")
    return Text.assemble(text, " ", (cell.note, "dim")) if cell.note else text


def write_csv(runs: Sequence[Run], path: Path) -> Path:
    """Every number of every summary, one a line, unrounded: defence, evaluator, images, metric, value, low, high."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["defence", "evaluator", "images", "metric", "value", "low", "high"])
        for run in runs:
            for summary in [*run.summaries, *run.probes]:
                for metric, triple in summary.metrics.items():
                    writer.writerow([run.name, summary.evaluator, summary.n, metric, *triple])
    return path


def write_table(table: Table, path: Path) -> Path:
    """A finished table, a line per row; what stands small beside an entry gets a column of its own."""
    cells = [[as_cell(entry) for entry in row] for row in table.rows]
    noted = [any(row[place].note for row in cells) for place in range(len(table.columns))]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        heads = zip(table.columns, noted, strict=True)
        writer.writerow([name for column, note in heads for name in [column, f"{column}, 95 %"][: 1 + note]])
        for row in cells:
            pairs = zip(row, noted, strict=True)
            writer.writerow([entry for cell, note in pairs for entry in [cell.text, cell.note][: 1 + note]])
    return path
