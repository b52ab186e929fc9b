"""From records to a table on the console, figures, a spreadsheet and one HTML page; nothing else goes in."""

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.text import Text

from common.experiments.study import Study
from common.report.figures.accuracy import accuracy_bars, certified_curves, plane, plane_points
from common.report.figures.convergence import convergence
from common.report.figures.drawing import LIGHT, Drawn, to_png
from common.report.figures.image_grids import grid, pictures
from common.report.page.page import Panel, page
from common.report.runs import Run, family, read_runs, state
from common.report.study import outcomes, study_figures, study_table
from common.report.tables.certification import certification_cost_table, certified_table, claims_table
from common.report.tables.comparisons import attack_table, run_table
from common.report.tables.gradients import gradients
from common.report.tables.table import Table, accuracy_table, to_rich, write_csv, write_table

__all__ = ["build", "summary_table"]

PICTURED = 10  # images per evaluator at most
PAIRED = 6  # runs of a study: more are not compared two by two
LISTED = 24  # comparisons that the console shows
LOG_WIDTH = 140


def build(paths: Sequence[str | Path], out: str | Path = Path("runs/report"), study: Study | None = None) -> Path:
    """Prints the tables and writes ``report.html``, ``report.csv``, ``compared.csv`` where there is something to
    compare, and the figures as PNG and SVG; returns the page.

    Args:
        paths: records directories, or folders that hold some; one defence each, in this order.
        out: folder for everything, or the page itself if it ends in ``.html``; the rest then lies beside it.
        study: what the runs are combinations of; its table and figures then come first.

    Raises ``ValueError`` when a path holds no records or ``out`` cannot be written.
    """
    runs = read_runs(paths)
    target = Path(out) if Path(out).suffix == ".html" else Path(out) / "report.html"
    panels = [panel for run in runs for panel in _panels(run)]
    compared = {"attacks-compared": attack_table(runs)}
    if study is None or len(runs) <= PAIRED:
        compared = {"compared": run_table(runs)} | compared
    results, converging = _results(runs), convergence(runs)
    if study is not None:
        found = outcomes(study, runs)
        compared = {study.name: study_table(study, found)} | compared
        results = [*study_figures(study, found), *results]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for drawn in [*results, *converging, *_pictures(panels)]:
            (target.parent / f"{drawn.name}.png").write_bytes(to_png(drawn.draw, LIGHT))
            (target.parent / f"{drawn.name}.svg").write_bytes(drawn.light)
        write_csv(runs, target.with_suffix(".csv"))
        for name, table in compared.items():
            if table.rows:
                write_table(table, target.with_name(f"{name}.csv"))
        target.write_text(page(runs, list(compared.values()), [results, converging], panels), encoding="utf-8")
    except OSError as error:
        raise ValueError(f"cannot write the report to {target.parent} ({error}). Name another folder.") from error
    _print(runs, list(compared.values()))
    return target


def summary_table(paths: Sequence[str | Path]) -> None:
    """Prints the tables of some records directories, and a sentence for each check that did not pass."""
    runs = read_runs(paths)
    _print(runs, [run_table(runs), attack_table(runs)])


def _print(runs: Sequence[Run], compared: Sequence[Table]) -> None:
    console = Console()
    if not console.is_terminal:  # a log file has no edge to fold at
        console = Console(width=max(console.width, LOG_WIDTH))
    made = [make(runs) for make in (accuracy_table, certified_table, claims_table, certification_cost_table)]
    for table in (*made, *compared):
        if len(table.rows) > LISTED and table in compared:
            console.print(Text(f"{table.title}: {len(table.rows)} comparisons, which are on the page", "dim"))
        elif table.rows:
            console.print(to_rich(table))
        for note in table.notes:
            console.print(Text(note, "dim"))
    for run in runs:
        if not run.records:
            console.print(Text(f"{run.name}: no image recorded yet", "yellow"))
        known = gradients(run)
        for sentence in known.sentences if known is not None else []:
            sign = "✗" if known is not None and known.state == "failed" else "!"
            console.print(Text.assemble((f"{sign} {run.name}, gradients: ", "bold yellow"), sentence))
        for check in run.checks:
            sign = {"failed": "✗", "undecided": "?"}.get(state(check), "")
            if sign:
                console.print(Text.assemble((f"{sign} {run.name}, {check.name}. ", "bold yellow"), check.sentence))


def _results(runs: Sequence[Run]) -> list[Drawn]:
    """The figures of results that the records allow."""
    figures: list[Drawn] = []
    if any(run.of_kind(0) or run.of_kind(1) for run in runs):
        caption = "Accuracy on clean and on attacked images, per defence. The numbers are in the tables above."
        figures.append(Drawn("accuracy", caption, partial(accuracy_bars, runs)))
    if len(plane_points(runs)) > 1:
        caption = (
            "Clean accuracy against average accuracy under the worst of all attacks that were run within the budget, "
            "with exact 95 % intervals of both."
        )
        figures.append(Drawn("plane", caption, partial(plane, runs)))
    if any(run.of_kind(2) for run in runs):
        caption = "Certified accuracy against the L2 radius, with bands of pointwise 95 % intervals."
        figures.append(Drawn("certified", caption, partial(certified_curves, runs)))
    return figures


def _panels(run: Run) -> list[Panel]:
    first = {family(name): name for name in reversed(run.attacks)}  # one of several seeds is enough
    names = [name for name in run.attacks if name in first.values()]
    shown = {name: [row for row in run.rows(name) if row.values.get("images")][:PICTURED] for name in names}
    return [Panel(f"{run.name}, {name}", grid(rows)) for name, rows in shown.items() if rows]


def _pictures(panels: Sequence[Panel]) -> list[Drawn]:
    slugs = [re.sub(r"[^A-Za-z0-9_.-]+", "-", panel.title).strip("-.") for panel in panels]
    return [
        Drawn(f"images-{number}-{slug}", "", partial(pictures, panel.grid))
        for number, (slug, panel) in enumerate(zip(slugs, panels, strict=True), 1)
    ]
