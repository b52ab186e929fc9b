"""The report as one self-contained HTML page: no script, no external font or image; light and dark."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from common.report.figures.drawing import Figure
from common.report.figures.image_grids import ImageGrid, grid
from common.report.headline import Headline, headline
from common.report.headline_table import headline_table
from common.report.page.banners import all_checks, banners
from common.report.page.environment import environment
from common.report.runs import Run, state
from common.report.tables import protocol
from common.report.tables.accuracy import accuracy_table, class_table, seed_table
from common.report.tables.certification import certified_table, claims_table
from common.report.tables.certification_cost import certification_cost_table
from common.report.tables.controls import comparison_table, control_table
from common.report.tables.cost import cost_table
from common.report.tables.table import Table
from common.report.tables.verdicts import verdicts_table

UNFOLDED = 40  # longest table of results or comparisons that is shown unfolded
RESULTS = (accuracy_table, certified_table, claims_table)
SCORES = "Scores of the runs, %"
SYMBOLS = {"passed": "✓", "failed": "✗", "undecided": "?"}


@dataclass(frozen=True)
class Panel:
    """ImageGrid of images of one evaluation of a run."""

    title: str
    grid: ImageGrid


@dataclass(frozen=True)
class Section:
    """A section of the page: its ``anchor`` is the target of a line in the table of contents; ``body`` is HTML."""

    anchor: str
    title: str
    body: str


def page(
    runs: Sequence[Run],
    compared: Sequence[Table],
    figures: Sequence[Sequence[Figure]],
    panels: Sequence[Panel],
    shown: Headline | None = None,
    study: Table | None = None,
) -> str:
    """The page: headline and images first, then results, caveats, protocol.

    ``compared`` are tables of paired tests, ``figures`` those of results and those of convergence, ``shown`` is the
    headline of the runs if it is known, ``study`` has its
    title and, if it has rows, their scores.
    """
    shown, heading = shown or headline(runs), "" if study is None else study.title
    return (
        environment()
        .get_template("page.html")
        .render(
            title=heading or ", ".join(run.name for run in runs),
            heading=heading or "Robustness report",
            lead=_lead(runs),
            table=headline_table(shown.rows),
            remarks=shown.remarks,
            excerpt=_excerpt(panels),
            sections=sections(runs, compared, figures, panels, study),
        )
    )


def sections(
    runs: Sequence[Run],
    compared: Sequence[Table],
    figures: Sequence[Sequence[Figure]],
    panels: Sequence[Panel],
    study: Table | None = None,
) -> list[Section]:
    """The sections with content, in their order."""
    results, converging = figures
    warnings, checked = banners(runs), [checks for run in runs if (checks := _checks(run))["checks"]]
    tables = [table for make in RESULTS if (table := make(runs)).rows]
    if study is not None and study.rows:
        tables = [replace(study, title=SCORES), *tables]
    pairs = [table for table in compared if table.rows or table.notes]
    costs, matched, others = certification_cost_table(runs), control_table(runs), comparison_table(runs)
    classes = [{"name": run.name, "table": class_table(run)} for run in runs if run.clean or run.attacks]
    attacked = any(run.attacks for run in runs)
    entries: list[tuple[bool, str, str, Sequence[Any]]] = [
        (bool(warnings), "caveats", "Caveats", [warnings]),
        (bool(tables or results), "results", "Results", [tables, results, UNFOLDED]),
        (bool(costs.rows), "costs", "Cost of certificates", [[costs, verdicts_table(runs)]]),
        (bool(pairs), "comparisons", "Comparisons on the same images", [pairs, UNFOLDED]),
        (bool(converging), "convergence", "Convergence of the attacks", [converging]),
        (bool(matched.rows), "controls", "Matched queries", [[matched, seed_table(runs)]]),
        (bool(panels), "images", "Images", [panels]),
        (attacked, "classes", "By class", [classes]),
        (True, "protocol", "Protocol", [[_protocol(run) for run in runs], cost_table(runs)]),
        (bool(checked or others.rows), "checks", "Masking checks and gradient checks", [checked, others]),
        (True, "reading", "How to read the numbers", []),
    ]
    bodies = environment().get_template("sections.html").module
    return [Section(name, title, getattr(bodies, name)(*values)) for shown, name, title, values in entries if shown]


def _lead(runs: Sequence[Run]) -> str:
    counts = sorted({len(evaluation.rows) for run in runs for evaluation in run.results}) or [0]
    images = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    defences = f"{len(runs)} defence{'s' if len(runs) > 1 else ''}"
    return f"{defences}, {images} images each. Every number is computed from the runs' records."


def _excerpt(panels: Sequence[Panel]) -> Panel | None:
    """The first stored image, of a purified one if there is any."""
    chosen = sorted(panels, key=lambda panel: "purified" not in panel.grid.views)[:1]
    return next((Panel(panel.title, grid(panel.grid.records[:1])) for panel in chosen), None)


def _protocol(run: Run) -> dict[str, Any]:
    return {
        "name": run.name,
        "defence": protocol.defence(run),
        "table": protocol.protocol_table(run),
        "fingerprint": run.fingerprint[:16],
        "config": json.dumps(run.config, indent=1, sort_keys=True, ensure_ascii=False),
    }


def _checks(run: Run) -> dict[str, Any]:
    found = [(state(check), name, check.sentence) for name, check in all_checks(run)]
    checks = [{"state": kind, "symbol": SYMBOLS[kind], "name": name, "sentence": words} for kind, name, words in found]
    states = [kind for kind, _, _ in found]
    return {"name": run.name, "checks": checks, "passed": states.count("passed"), "failed": "failed" in states}
