"""What was certified, and what it cost in network evaluations.

They are all rows that passed a network, also those that fill up a call: with calls of automatic size they depend on the
machine by some percent.
"""

import json
import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from common.records.store import Record, Summary, certified_share, is_certified
from common.report.runs import Run
from common.report.tables.table import Cell, Entry, Table

NORMS = "An image certified at the L2 radius r is so at the L1 radius r, and at the L-inf radius r / sqrt(D): {}."
ASKED = (
    "A run that was asked about some radii shows those only, as it stops sampling once they are answered. Foreseen "
    "verdicts are what a fixed procedure would say: as good as certain, but no certificates."
)
CLAIMS = (
    "Of the images that are classified right. A claim is what a published formula gives that is no bound: it is shown "
    "for comparison, nothing is certified by it, and it is in no other table of certificates and in no figure."
)
COST = (
    "Network evaluations per image are counted, every row that passes a network; samples are all that were drawn, also "
    "those that choose the class. Where it says foreseen, the verdicts are those of the fixed procedure, foreseen from "
    "fewer of its samples, and its samples and evaluations are those that the procedure itself takes. The ratio is to "
    "the dearest run of the same evaluation, data and noise, on the images of both."
)
LABELLED = (
    "Where the label's class alone was asked about (labelled, foreseen), an image of which another class would be "
    "certified counts as abstained."
)


def certified_table(runs: Sequence[Run]) -> Table:
    """One row per run and certifier; a column per radius that any of them reaches or was asked about.

    Samples are all that were drawn per image, also those that choose the class.
    """
    summaries = [(run, summary) for run in runs for summary in run.of_kind(2)]
    reached = {float(name.split("@")[1]) for _, summary in summaries for name in summary.metrics if "@" in name}
    questions = [targets(run, summary.evaluator) for run, summary in summaries]
    radii = sorted(reached.union(*(asked for asked in questions if asked is not None)))
    columns = ["Defence", "Evaluation", "Images", *(f"r = {radius:g}" for radius in radii), "Abstained", "Samples"]
    rows = [_certificates(run, summary, radii) for run, summary in summaries]
    notes = [NORMS.format("; ".join(found))] if (found := _linf(summaries)) else []
    notes += [ASKED] if any(asked is not None for asked in questions) else []
    notes += [LABELLED] if any(_is_labelled(run, summary.evaluator) for run, summary in summaries) else []
    return Table("Certified accuracy, %, at L2 radius r in pixels", columns, rows, notes=notes)


def claims_table(runs: Sequence[Run]) -> Table:
    """Radii that were claimed, beside those that the same runs certify: of the images that are classified right."""
    rows: list[list[Entry]] = []
    for run in runs:
        claimed = run.of_kind(3)
        proven = [summary for summary in run.of_kind(2) if not is_foreseen(run.rows(summary.evaluator))]
        for summary in [*proven, *claimed] if claimed else []:
            right = [row for row in run.rows(summary.evaluator) if row.values["prediction"] == row.label]
            radii = [row.values["radius"] for row in right] or [0.0]
            what = "claim, proves nothing" if summary in claimed else "certificate"
            found = [f"{value:.3g}" for value in (median(radii), max(radii))]
            rows.append([run.name, summary.evaluator, what, summary.n, len(right), *found])
    columns = ["Defence", "Evaluation", "What it is", "Images", "Right", "Median radius", "Largest radius"]
    return Table("Certified radii and claimed ones, L2, pixels", columns, rows, names=3, notes=[CLAIMS] if rows else [])


def certification_cost_table(runs: Sequence[Run]) -> Table:
    """Per run and certifier: certified accuracy at its target radii, samples, network evaluations, and the saving."""
    asked = [(run, summary.evaluator) for run in runs for summary in run.of_kind(2)]
    questions = [_question(run, name) for run, name in asked]
    groups: dict[str, list[Sequence[Record]]] = {}
    for (run, name), question in zip(asked, questions, strict=True):
        groups.setdefault(question, []).append(run.rows(name))
    rows: list[list[Entry]] = []
    for (run, name), question in zip(asked, questions, strict=True):
        found = run.rows(name)
        cost = evaluations(found)
        saved = max((times for other in groups[question] if (times := _dearer(other, found))), default=None)
        ratio = Cell(f"{saved:,.1f}", "", True) if saved and len(runs) > 1 else None
        entries: list[Entry] = [_samples(run, name), "not recorded" if not cost else f"{cost:,.0f}", ratio]
        rows.append([run.name, name, len(found), _curve(run, name), *entries])
    columns = ["Defence", "Evaluation", "Images", "Certified, %, at radius", "Samples", "Evaluations", "Times fewer"]
    return Table("Cost of certification, per image", columns, rows, names=2, notes=[COST] if rows else [])


def evaluations(rows: Sequence[Record]) -> float | None:
    """Mean network evaluations per image: of the procedure where it was foreseen, else as counted; None if unknown."""
    values = [row.values.get("evaluations", row.cost.get("evaluations")) for row in rows]
    known = [float(value) for value in values if value is not None]
    return _mean(known) if rows and len(known) == len(rows) else None


def _dearer(other: Sequence[Record], rows: Sequence[Record]) -> float | None:
    """How many times the evaluations of ``rows`` the ``other`` ones took, on the images of both; None if unknown."""
    common = {row.index for row in other} & {row.index for row in rows}
    theirs, ours = (evaluations([row for row in part if row.index in common]) for part in (other, rows))
    return theirs / ours if theirs and ours else None


def _samples(run: Run, name: str) -> str:
    """Mean samples per image, those that choose the class included; of the procedure where it was foreseen."""
    selected = _settings(run, name).get("n0", 0)
    return f"{_mean([row.values.get('procedure', row.values['samples'] + selected) for row in run.rows(name)]):,.0f}"


def targets(run: Run, name: str) -> list[float] | None:
    """The radii that a certifier was asked about; None if it answers about all."""
    found = _settings(run, name).get("targets")
    return None if found is None else [float(radius) for radius in found]


def is_foreseen(rows: Sequence[Record]) -> bool:
    """Whether the verdicts are a procedure's that was not run to its end, which certifies nothing."""
    return any("procedure" in row.values for row in rows)


def _is_labelled(run: Run, name: str) -> bool:
    return bool(_settings(run, name).get("labelled")) or is_foreseen(run.rows(name))


def is_open(row: Record, radius: float) -> bool:
    """Whether a foreseen verdict about ``radius`` is a guess."""
    return radius in row.values.get("undecided", ())


def _certificates(run: Run, summary: Summary, radii: list[float]) -> list[Entry]:
    rows, asked = run.rows(summary.evaluator), targets(run, summary.evaluator)
    shares = [_entry(rows, radius) if asked is None or radius in asked else None for radius in radii]
    return [
        run.name, summary.evaluator, summary.n, *shares, summary.metrics["abstained"], _samples(run, summary.evaluator)
    ]  # fmt: skip


def _entry(rows: Sequence[Record], radius: float) -> Entry:
    return Cell(_share(rows, radius), "foreseen") if is_foreseen(rows) else certified_share(rows, radius)


def _linf(summaries: Sequence[tuple[Run, Summary]]) -> list[str]:
    """What an L2 radius r is in L-inf, for each size of images."""
    rows = (row.values for run, summary in summaries for row in run.rows(summary.evaluator))
    factors = {round(row["radius"] / row["radius_linf"], 2) for row in rows if row.get("radius_linf")}
    return [f"r / {factor:g}" for factor in sorted(factors)]


def _question(run: Run, name: str) -> str:
    """What runs must share for their costs to be compared: the evaluation's name, the images and the noise."""
    sigma = _settings(run, name).get("sigma")
    return json.dumps([name, run.config.get("data"), sigma], sort_keys=True, default=str)


def _curve(run: Run, name: str) -> Cell:
    rows = run.rows(name)
    shares = [f"{_share(rows, radius)} at {radius:g}" for radius in targets(run, name) or ()]
    return Cell(", ".join(shares) or "–", "foreseen" if is_foreseen(rows) else "")


def _share(rows: Sequence[Record], radius: float) -> str:
    """Certified accuracy in percent; from .. to where the verdicts that are open may fall either way."""
    low = sum(is_certified(row, radius) and not is_open(row, radius) for row in rows) / len(rows)
    high = sum(is_certified(row, radius) or is_open(row, radius) for row in rows) / len(rows)
    return f"{100 * low:.1f}" if low == high else f"{100 * low:.1f} to {100 * high:.1f}"


def _settings(run: Run, name: str) -> Mapping[str, Any]:
    """Those of an evaluation's certifier, as the run's header has them."""
    found: Mapping[str, Any] = run.part(name).get("smoothing", {})
    return found


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
