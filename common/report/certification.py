"""What certificates cost, in network evaluations: the figure that does not depend on the machine."""

import json
import math
from collections.abc import Sequence

from common.report.runs import Run
from common.report.tables import Cell, Entry, Table
from common.robustness.records import Record, is_certified

NOTE = (
    "Network evaluations per image are counted, every row that passes a network. Where it says foreseen, the verdicts "
    "are those of the fixed procedure, foreseen from fewer of its samples, and its samples and evaluations are "
    "those that the procedure itself takes. The ratio is to the dearest run of the same evaluation, data and noise."
)


def certification_cost_table(runs: Sequence[Run]) -> Table:
    """Per run and certifier: certified accuracy at its target radii, samples, network evaluations, and the saving."""
    asked = [(run, summary.evaluator) for run in runs for summary in run.of_kind(2)]
    costs = {(run.name, name): evaluations(run.rows(name)) for run, name in asked}
    same = {(run.name, name): _question(run, name) for run, name in asked}
    rows: list[list[Entry]] = []
    for run, name in asked:
        found, cost = run.rows(name), costs[run.name, name]
        dearest = max(c or 0.0 for key, c in costs.items() if same[key] == same[run.name, name])
        saved = Cell(f"{dearest / cost:,.1f}", "", True) if cost and len(runs) > 1 else None
        samples = _mean([row.values.get("procedure", row.values["samples"]) for row in found])
        entries: list[Entry] = [f"{samples:,.0f}", "not recorded" if not cost else f"{cost:,.0f}", saved]
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


def _question(run: Run, name: str) -> str:
    """What runs must share for their costs to be compared: the evaluation's name, the images and the noise."""
    sigma = run.part(name).get("smoothing", {}).get("sigma")
    return json.dumps([name, run.config.get("data"), sigma], sort_keys=True, default=str)


def _curve(run: Run, name: str) -> Cell:
    rows = run.rows(name)
    shares = [_share(rows, radius) for radius in targets(run, name) or ()]
    return Cell(", ".join(shares) or "–", "foreseen" if any("procedure" in row.values for row in rows) else "")


def _share(rows: Sequence[Record], radius: float) -> str:
    """Certified accuracy in percent; from .. to where the verdicts that are open may fall either way."""
    open_ones = [radius in row.values.get("undecided", ()) for row in rows]
    low = sum(is_certified(row, radius) and not o for row, o in zip(rows, open_ones, strict=True)) / len(rows)
    high = sum(is_certified(row, radius) or o for row, o in zip(rows, open_ones, strict=True)) / len(rows)
    return f"{100 * low:.1f} at {radius:g}" if low == high else f"{100 * low:.1f} to {100 * high:.1f} at {radius:g}"


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
