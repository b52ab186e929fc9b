"""From records to a table on the console, figures, a spreadsheet and one HTML page; nothing else goes in."""

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.text import Text

from common.report.figures import LIGHT, Draw, accuracy_bars, certified_curves, pictures, to_png, to_svg
from common.report.page import Panel, page
from common.report.runs import Run, read_runs
from common.report.tables import accuracy_table, certified_table, to_rich, write_csv

__all__ = ["build", "summary_table"]

PICTURED = 10  # images per run at most
LOG_WIDTH = 140


def build(paths: Sequence[str | Path], out: str | Path = Path("runs/report")) -> Path:
    """Prints the tables and writes ``report.html``, ``report.csv`` and the figures as PNG and SVG; returns the page.

    Args:
        paths: records directories, or folders that hold some; one defence each, in this order.
        out: folder for everything, or the page itself if it ends in ``.html``; the rest then lies beside it.

    Raises ``ValueError`` when a path holds no records or ``out`` cannot be written.
    """
    runs = read_runs(paths)
    target = Path(out) if Path(out).suffix == ".html" else Path(out) / "report.html"
    panels = [panel for run in runs for panel in _panels(run)]
    named = _figures(runs)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for name, _, draw in [*named, *_pictures(panels)]:
            (target.parent / f"{name}.png").write_bytes(to_png(draw, LIGHT))
            (target.parent / f"{name}.svg").write_bytes(to_svg(draw, LIGHT))
        write_csv(runs, target.with_suffix(".csv"))
        tables = [accuracy_table(runs), certified_table(runs)]
        target.write_text(page(runs, tables, [entry[1:] for entry in named], panels), encoding="utf-8")
    except OSError as error:
        raise ValueError(f"cannot write the report to {target.parent} ({error}). Name another folder.") from error
    _print(runs)
    return target


def summary_table(paths: Sequence[str | Path]) -> None:
    """Prints the tables of some records directories, and a sentence for each failed check."""
    _print(read_runs(paths))


def _print(runs: Sequence[Run]) -> None:
    console = Console()
    if not console.is_terminal:  # a log file has no edge to fold at
        console = Console(width=max(console.width, LOG_WIDTH))
    for table in (accuracy_table(runs), certified_table(runs)):
        if table.rows:
            console.print(to_rich(table))
    for run in runs:
        if not run.records:
            console.print(Text(f"{run.name}: no image recorded yet", "yellow"))
        for check in run.checks:
            if not check.passed:
                console.print(Text.assemble((f"✗ {run.name}, {check.name}. ", "bold yellow"), check.sentence))


def _figures(runs: Sequence[Run]) -> list[tuple[str, str, Draw]]:
    """(file name, caption, what draws it) of the figures that the records allow."""
    figures: list[tuple[str, str, Draw]] = []
    if any(run.of_kind(0) or run.of_kind(1) for run in runs):
        caption = "Accuracy on clean and on attacked images, per defence."
        figures.append(("accuracy", caption, partial(accuracy_bars, runs)))
    if any(run.of_kind(2) for run in runs):
        caption = "Certified accuracy against the L2 radius, with bands of pointwise 95 % intervals."
        figures.append(("certified", caption, partial(certified_curves, runs)))
    return figures


def _panels(run: Run) -> list[Panel]:
    attacked = [(summary.evaluator, run.rows(summary.evaluator)) for summary in run.of_kind(1)]
    shown = [(name, [row for row in rows if row.values.get("images")][:PICTURED]) for name, rows in attacked]
    return [(run, name, rows) for name, rows in shown if rows]


def _pictures(panels: Sequence[Panel]) -> list[tuple[str, str, Draw]]:
    figures: list[tuple[str, str, Draw]] = []
    for number, (run, evaluator, records) in enumerate(panels, 1):
        slug = re.sub(r"[^\w.-]+", "-", f"{run.name}-{evaluator}").strip("-.")
        figures.append((f"images-{number}-{slug}", "", partial(pictures, records)))
    return figures
