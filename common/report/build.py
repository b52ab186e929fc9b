"""Report of some runs: one HTML page, spreadsheets and figures, from records alone."""

import re
from collections.abc import Sequence
from functools import partial
from itertools import islice
from pathlib import Path

from common.checks.settings import is_file_name
from common.experiments.study import Study
from common.files.replacing import remove_leftovers, write_all
from common.files.trial import try_file
from common.records.column_rows import Rows
from common.records.schema import AttackedRecord
from common.report.ending import print_ending
from common.report.figures.accuracy_bars import accuracy_bars, plane, plane_points
from common.report.figures.certified import certified_curves
from common.report.figures.convergence import convergence
from common.report.figures.drawing import LIGHT, Figure, to_png
from common.report.figures.image_grids import grid, grid_plot
from common.report.figures.study_figures import study_figures
from common.report.headline import headline
from common.report.metrics import metrics_csv
from common.report.own_files import check_own, list_own
from common.report.page.page import Panel, page
from common.report.pairing import FEW, Pairing
from common.report.runs import Run, by_name, read_runs
from common.report.tables.comparisons import attack_table, run_table
from common.report.tables.study_table import outcomes, study_table
from common.report.tables.table import table_csv

MOST_IMAGES = 10  # in the grid of an evaluation
MOST_DRAWN = 12  # runs of a page with figures that were not asked for
BY_NUMBER = Pairing()
PAGE = "report"  # name of the page where ``out`` is a folder


def build(
    paths: Sequence[str | Path],
    out: str | Path = Path("runs/report"),
    study: Study | None = None,
    figures: bool = False,
    quiet: bool = False,
    pairing: Pairing = BY_NUMBER,
) -> Path:
    """Write ``report.html``, ``report.csv`` and tables of comparisons; print the headline and the path of the page.

    Args:
        paths: records directories, or folders that hold some; one defence each, in this order.
        out: folder for everything, or the page itself if it ends in ``.html``; tables get its name and go beside it.
        study: the runs are its combinations; its table and figures then come first.
        figures: also write every figure of the page as PNG and SVG. A page of more than 12 runs has figures, and images
            of other runs than the first, only then.
        quiet: print nothing.
        pairing: the runs that are compared.

    Returns the path of the page. Raises ``ValueError`` when a path holds no records or ``out`` cannot be written.
    """
    target = check_out(out)
    runs = read_runs(paths)
    drawn = runs if figures or len(runs) <= MOST_DRAWN else runs[:0]
    panels = [panel for run in drawn or runs[:1] for panel in _panels(run)]
    compared = {"attacks-compared": attack_table(runs)}
    if study is None or len(runs) <= FEW:
        compared = {"compared": run_table(runs, pairing)} | compared
    results, converging = _result_figures(drawn), convergence(drawn)
    if study is not None:
        scores = outcomes(study, runs)
        compared = {study.name: study_table(study, scores)} | compared
        results = [*study_figures(study, scores), *results]
    shown = headline(runs)
    contents: dict[Path, str | bytes] = {target.with_suffix(".csv"): metrics_csv(runs)}
    own = "" if target.stem == PAGE else f"{target.stem}-"  # pages of one folder have tables of their own
    contents |= {
        target.with_name(f"{own}{name}.csv"): table_csv(table) for name, table in compared.items() if table.rows
    }
    if figures:
        contents |= _drawn([*results, *converging, *_image_figures(panels)], target.parent)
    contents[target] = page(runs, list(compared.values()), [results, converging], panels, shown)
    check_own(target, contents)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(target.parent)
        list_own(target, contents)
        write_all(contents, "write the report")
    except OSError as error:
        raise ValueError(f"cannot write the report to {target.parent} ({error}). Name another folder.") from error
    if not quiet:
        print_ending(shown, f"All tables: {target.resolve()}")
    return target


def check_out(out: str | Path) -> Path:
    """Path of the page in ``out``. Raises ``ValueError`` for a file of another kind, and if it cannot be written."""
    path = Path(out)
    if path.suffix != ".html" and is_file_name(path):
        raise ValueError(
            f"a report is a folder, or a page that ends in .html; got {path}. Write {path.with_suffix('.html')}"
        )
    target = path if path.suffix == ".html" else path / f"{PAGE}.html"
    try:
        try_file(target, "write the report")
    except OSError as error:
        raise ValueError(f"cannot write the report to {target.parent} ({error}). Name another folder.") from error
    return target


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
    shown = {attack.title: _with_images(attack.rows) for attack in first}
    return [Panel(f"{run.name}, {title}", grid(rows)) for title, rows in shown.items() if rows]


def _with_images(rows: Rows[AttackedRecord]) -> list[AttackedRecord]:
    """The first rows with stored images."""
    stored = (place for place, images in enumerate(rows.array("images")) if images)
    return [rows[place] for place in islice(stored, MOST_IMAGES)]


def _image_figures(panels: Sequence[Panel]) -> list[Figure]:
    slugs = [re.sub(r"[^A-Za-z0-9_.-]+", "-", panel.title).strip("-.") for panel in panels]
    return [
        Figure(f"images-{number}-{slug}", "", partial(grid_plot, panel.grid))
        for number, (slug, panel) in enumerate(zip(slugs, panels, strict=True), 1)
    ]


def _drawn(figures: Sequence[Figure], folder: Path) -> dict[Path, bytes]:
    """The files of all figures, as PNG and SVG."""
    png = {folder / f"{figure.name}.png": to_png(figure.draw, LIGHT) for figure in figures}
    return png | {folder / f"{figure.name}.svg": figure.light for figure in figures}
