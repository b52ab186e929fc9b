"""Report of some runs: tables on the console, figures, spreadsheets and one HTML page, from records alone."""

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.text import Text

from common.experiments.study import Study
from common.report.figures.accuracy import accuracy_bars, plane, plane_points
from common.report.figures.certified import certified_curves
from common.report.figures.convergence import convergence
from common.report.figures.drawing import LIGHT, Figure, to_png
from common.report.figures.image_grids import grid, grid_plot
from common.report.figures.study import study_figures
from common.report.metrics import write_metrics
from common.report.page.page import Panel, page
from common.report.runs import Run, by_name, read_runs, state
from common.report.tables.accuracy import accuracy_table
from common.report.tables.certification import certification_cost_table, certified_table, claims_table
from common.report.tables.comparisons import attack_table, run_table
from common.report.tables.gradients import gradients
from common.report.tables.study import outcomes, study_table
from common.report.tables.table import Table, to_rich, write_table

__all__ = ["build", "summary_table"]

MOST_IMAGES = 10  # in the grid of an evaluation
MOST_PAIRED = 6  # runs of a study that are compared two by two
MOST_LISTED = 24  # comparisons on the console
LOG_WIDTH = 140  # characters
TABLES = (accuracy_table, certified_table, claims_table, certification_cost_table)


def build(paths: Sequence[str | Path], out: str | Path = Path("runs/report"), study: Study | None = None) -> Path:
    """Print the tables; write ``report.html``, ``report.csv``, tables of comparisons, and the figures as PNG and SVG.

    Args:
        paths: records directories, or folders that hold some; one defence each, in this order.
        out: folder for everything, or the page itself if it ends in ``.html``; other files go to the same folder.
        study: the runs are its combinations; its table and figures then come first.

    Returns the path of the page. Raises ``ValueError`` when a path holds no records or ``out`` cannot be written.
    """
    runs = read_runs(paths)
    target = Path(out) if Path(out).suffix == ".html" else Path(out) / "report.html"
    panels = [panel for run in runs for panel in _panels(run)]
    compared = {"attacks-compared": attack_table(runs)}
    if study is None or len(runs) <= MOST_PAIRED:
        compared = {"compared": run_table(runs)} | compared
    results, converging = _result_figures(runs), convergence(runs)
    if study is not None:
        scores = outcomes(study, runs)
        compared = {study.name: study_table(study, scores)} | compared
        results = [*study_figures(study, scores), *results]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _write_figures([*results, *converging, *_image_figures(panels)], target.parent)
        write_metrics(runs, target.with_suffix(".csv"))
        for name, table in compared.items():
            if table.rows:
                write_table(table, target.with_name(f"{name}.csv"))
        target.write_text(page(runs, list(compared.values()), [results, converging], panels), encoding="utf-8")
    except OSError as error:
        raise ValueError(f"cannot write the report to {target.parent} ({error}). Name another folder.") from error
    _print(runs, list(compared.values()))
    return target


def summary_table(paths: Sequence[str | Path]) -> None:
    """Print the tables of some records directories, and a sentence for each check that did not pass."""
    runs = read_runs(paths)
    _print(runs, [run_table(runs), attack_table(runs)])


def _print(runs: Sequence[Run], compared: Sequence[Table]) -> None:
    console = Console()
    if not console.is_terminal:  # lines of a log file need not fit a window
        console = Console(width=max(console.width, LOG_WIDTH))
    for table in (*(make(runs) for make in TABLES), *compared):
        if len(table.rows) > MOST_LISTED and table in compared:
            console.print(Text(f"{table.title}: {len(table.rows)} comparisons, listed on the page", "dim"))
        elif table.rows:
            console.print(to_rich(table))
        for note in table.notes:
            console.print(Text(note, "dim"))
    for run in runs:
        _print_warnings(run, console)


def _print_warnings(run: Run, console: Console) -> None:
    if not run.records:
        console.print(Text(f"{run.name}: no image recorded yet", "yellow"))
    if known := gradients(run):
        sign = "✗" if known.state == "failed" else "!"
        for sentence in known.sentences:
            console.print(Text.assemble((f"{sign} {run.name}, gradients: ", "bold yellow"), sentence))
    for check in run.checks:
        if sign := {"failed": "✗", "undecided": "?"}.get(state(check), ""):
            console.print(Text.assemble((f"{sign} {run.name}, {check.name}. ", "bold yellow"), check.sentence))


def _result_figures(runs: Sequence[Run]) -> list[Figure]:
    """Figures of results that the records allow."""
    figures: list[Figure] = []
    if any(run.clean or run.attacked for run in runs):
        caption = "Accuracy on clean and on attacked images, per defence. The numbers are in the tables above."
        figures.append(Figure("accuracy", caption, partial(accuracy_bars, runs)))
    if len(plane_points(runs)) > 1:
        caption = (
            "Clean accuracy against average accuracy under the worst of all attacks that were run within the budget, "
            "with exact 95 % intervals of both."
        )
        figures.append(Figure("plane", caption, partial(plane, runs)))
    if any(run.certified for run in runs):
        caption = "Certified accuracy against the L2 radius, with bands of pointwise 95 % intervals."
        figures.append(Figure("certified", caption, partial(certified_curves, runs)))
    return figures


def _panels(run: Run) -> list[Panel]:
    """Grids of the stored images, of each attack's first seed."""
    first = [seeds[0] for seeds in by_name(run.attacks).values()]
    shown = {attack.title: [row for row in attack.rows if row.images][:MOST_IMAGES] for attack in first}
    return [Panel(f"{run.name}, {title}", grid(rows)) for title, rows in shown.items() if rows]


def _image_figures(panels: Sequence[Panel]) -> list[Figure]:
    slugs = [re.sub(r"[^A-Za-z0-9_.-]+", "-", panel.title).strip("-.") for panel in panels]
    return [
        Figure(f"images-{number}-{slug}", "", partial(grid_plot, panel.grid))
        for number, (slug, panel) in enumerate(zip(slugs, panels, strict=True), 1)
    ]


def _write_figures(figures: Sequence[Figure], folder: Path) -> None:
    for figure in figures:
        (folder / f"{figure.name}.png").write_bytes(to_png(figure.draw, LIGHT))
        (folder / f"{figure.name}.svg").write_bytes(figure.light)
