"""Files of one report: the page, its tables as spreadsheets and as Markdown, and its figures."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

from common.records.column_rows import Rows
from common.records.schema import AttackedRecord
from common.report.figures.convergence import convergence
from common.report.figures.drawing import LIGHT, Figure, to_png
from common.report.figures.image_grids import grid, grid_plot
from common.report.figures.of_results import result_figures
from common.report.headline import headline
from common.report.metrics import metrics_csv
from common.report.named_tables import markdown_page
from common.report.page.page import Panel, page
from common.report.pairing import FEW, Pairing
from common.report.runs import Run, by_name
from common.report.studies import RecordedStudy
from common.report.tables.comparisons import attack_table, run_table
from common.report.tables.study_table import study_table
from common.report.tables.table import Table, table_csv

MOST_IMAGES = 10  # in the grid of an evaluation
MOST_DRAWN = 12  # runs of a page with figures that were not asked for
BY_NUMBER = Pairing()
PAGE = "report"  # name of the page in a folder
Contents = dict[Path, str | bytes]


@dataclass(frozen=True)
class Options:
    """Options of a report: ``figures`` are written as PNG and SVG, or if ``vectors`` as SVG alone; the ``pairing``."""

    figures: bool = False
    vectors: bool = False
    pairing: Pairing = BY_NUMBER


def contents(study: RecordedStudy, target: Path, options: Options) -> Contents:
    """Every file of the report of some runs by its path; ``target`` is the page."""
    runs, known = study.runs, study.study
    own = "" if target.stem == PAGE else target.stem  # pages of one folder have files of their own
    few = options.figures or options.vectors or len(runs) <= MOST_DRAWN
    drawn = runs if few else runs[:0]
    panels = [panel for run in drawn or runs[:1] for panel in _panels(run)]
    compared = {"attacks-compared": attack_table(runs)}
    if not known.combinations or len(runs) <= FEW:
        compared = {"compared": run_table(runs, options.pairing)} | compared
    overview = study_table(known, study.outcomes) if known.combinations else Table(study.title, [], [])
    tables = ({"scores" if own else known.name: overview} if known.combinations else {}) | compared
    results, converging = [*study.figures, *result_figures(drawn)], convergence(drawn)
    prefix = f"{own}." if own else ""
    made: Contents = {target.with_suffix(".csv"): metrics_csv(runs)}
    made |= {target.with_name(f"{prefix}{name}.csv"): table_csv(table) for name, table in tables.items() if table.rows}
    made[target.with_suffix(".md")] = markdown_page(study, options.pairing)
    shown = [*results, *converging] if options.figures or options.vectors else []
    named = {
        figure_name(own, figure.name): figure
        for figure in [*shown, *(_image_figures(panels) if options.figures else [])]
    }
    made |= {target.with_name(f"{name}.svg"): figure.light for name, figure in named.items()}
    if options.figures:
        made |= {target.with_name(f"{name}.png"): to_png(figure.draw, LIGHT) for name, figure in named.items()}
    made[target] = page(
        runs,
        list(compared.values()),
        [results, converging],
        panels,
        headline(runs),
        replace(overview, title=study.title),
    )
    return made


def figure_name(own: str, name: str) -> str:
    """Name of a figure's file: that of the figure, behind the name of a page that is not called "report"."""
    return name if own in ("", name) else f"{own}.{name}"


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
