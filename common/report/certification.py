"""What certificates cost, in network evaluations: the figure that does not depend on the machine."""

import math
from collections.abc import Sequence

from common.report.runs import Run
from common.report.tables import Cell, Entry, Table
from common.robustness.records import Record, certified_share

NOTE = (
    "Network evaluations per image are counted, every row that passes a network. Where it says foreseen, the verdicts "
    "are those of the fixed procedure, foreseen from fewer of its samples, and its samples and evaluations are "
    "those that the procedure itself takes. The ratio is to the dearest run of the same evaluation."
)


def certification_cost_table(runs: Sequence[Run]) -> Table:
    """Per run and certifier: certified accuracy at its target radii, samples, network evaluations, and the saving."""
    asked = [(run, summary.evaluator) for run in runs for summary in run.of_kind(2)]
    costs = {(run.name, name): evaluations(run.rows(name)) for run, name in asked}
    rows: list[list[Entry]] = []
    for run, name in asked:
        found, cost = run.rows(name), costs[run.name, name]
        dearest = max((c for (_, other), c in costs.items() if other == name and c is not None), default=None)
        saved = None if cost is None or dearest is None or len(runs) < 2 else Cell(f"{dearest / cost:,.1f}", "", True)
        samples = _mean([row.values.get("procedure", row.values["samples"]) for row in found])
        entries: list[Entry] = [f"{samples:,.0f}", "not recorded" if cost is None else f"{cost:,.0f}", saved]
        rows.append([run.name, name, len(found), _curve(run, name), *entries])
    columns = ["Defence", "Evaluation", "Images", "Certified, %, at radius", "Samples", "Evaluations", "Times fewer"]
    return Table("Cost of certification, per image", columns, rows, names=2, notes=[NOTE] if rows else [])


def evaluations(rows: Sequence[Record]) -> float | None:
    """Mean network evaluations per image: of the procedure where it was foreseen, else as counted; None if unknown."""
    values = [row.values.get("evaluations", row.cost.get("evaluations")) for row in rows]
    known = [float(value) for value in values if value is not None]
    return _mean(known) if len(known) == len(rows) else None


def targets(run: Run, name: str) -> list[float] | None:
    """The radii that a certifier was asked about; None if it answers about all."""
    found = run.part(name).get("smoothing", {}).get("targets")
    return None if found is None else [float(radius) for radius in found]


def _curve(run: Run, name: str) -> Cell:
    rows = run.rows(name)
    shares = [f"{100 * certified_share(rows, r)[0]:.1f} at {r:g}" for r in targets(run, name) or ()]
    undecided = sum(row.values.get("undecided", 0) for row in rows)
    doubts = f", {undecided} verdicts open" if undecided else ""
    foreseen = f"foreseen{doubts}" if any("procedure" in row.values for row in rows) else ""
    return Cell(", ".join(shares) or "–", foreseen)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
