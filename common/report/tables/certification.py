"""Tables of certified accuracy, of claimed radii, and of the cost of certification.

Network evaluations are all rows that pass a network, also those that fill up a call: with calls of automatic size they
depend on the machine by some percent.
"""

import json
import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from common.records.schema import CertifiedRecord, ForecastRecord
from common.records.summary import certified_share, is_certified
from common.report.runs import Evaluation, Run
from common.report.tables.table import Cell, Entry, Table

Certificates = Evaluation[CertifiedRecord]
FORECAST = "forecast"
NORMS = "An image certified at the L2 radius r is so at the L1 radius r, and at the L-inf radius r / sqrt(D): {}."
TARGETS = (
    "A run with target radii shows those only, as it stops sampling once they are decided. Forecasts predict the "
    "verdicts of a fixed-n procedure: as good as certain, but no certificates."
)
CLAIMS = (
    "Of the correctly classified images. A claim is a radius by a published formula that is no bound: it is shown for "
    "comparison, certifies nothing, and is in no other table of certificates and in no figure."
)
COST = (
    "Network evaluations per image are counted, every row that passes a network; samples include those that choose the "
    "class. A forecast predicts the verdicts of the fixed-n procedure from fewer of its samples; its samples and "
    "evaluations are those of the procedure itself. The ratio is to the most expensive run of the same evaluation, "
    "data and noise, on the images of both."
)
LABELLED = (
    "Where only the label's class is tested (labelled, forecast), an image of which another class would be certified "
    "counts as abstained."
)


def certified_table(runs: Sequence[Run]) -> Table:
    """One row per run and certifier; a column per radius on the grid up to the largest, and per target radius.

    Samples are the mean per image, with those that choose the class.
    """
    pairs = [(run, evaluation) for run in runs for evaluation in run.certified]
    reached = {float(name.split("@")[1]) for _, one in pairs for name in one.summary.metrics if "@" in name}
    known = [targets(one) for _, one in pairs]
    radii = sorted(reached.union(*(some for some in known if some is not None)))
    columns = ["Defence", "Evaluation", "Images", *(f"r = {radius:g}" for radius in radii), "Abstained", "Samples"]
    rows = [_certificates(run, one, radii) for run, one in pairs]
    factors = _linf_factors([one for _, one in pairs])
    notes = [NORMS.format("; ".join(factors))] if factors else []
    notes += [TARGETS] if any(some is not None for some in known) else []
    notes += [LABELLED] if any(_is_labelled(one) for _, one in pairs) else []
    return Table("Certified accuracy, %, at L2 radius r in pixels", columns, rows, notes=notes)


def claims_table(runs: Sequence[Run]) -> Table:
    """Claimed radii beside those that the same runs certify, of the correctly classified images."""
    rows: list[list[Entry]] = []
    for run in runs:
        proven = [(one, "certificate") for one in run.certified if not is_forecast(one.rows)]
        claims: list[tuple[Certificates, str]] = [(one, "claimed, not certified") for one in run.claimed]
        for one, kind in [*proven, *claims] if claims else []:
            correct = [row for row in one.rows if row.correct]
            radii = [row.radius for row in correct] or [0.0]
            ends = [f"{value:.3g}" for value in (median(radii), max(radii))]
            rows.append([run.name, one.title, kind, len(one.rows), len(correct), *ends])
    columns = ["Defence", "Evaluation", "Kind", "Images", "Correct", "Median radius", "Largest radius"]
    return Table("Certified radii and claimed ones, L2, pixels", columns, rows, names=3, notes=[CLAIMS] if rows else [])


def certification_cost_table(runs: Sequence[Run]) -> Table:
    """Per run and certifier: certified accuracy at its target radii, samples, network evaluations, and the saving."""
    pairs = [(run, evaluation, _comparable(run, evaluation)) for run in runs for evaluation in run.certified]
    groups: dict[str, list[Sequence[CertifiedRecord]]] = {}
    for _, one, key in pairs:
        groups.setdefault(key, []).append(one.rows)
    rows: list[list[Entry]] = []
    for run, one, key in pairs:
        cost = evaluations(one.rows)
        saved = max((times for other in groups[key] if (times := _cost_ratio(other, one.rows))), default=None)
        ratio = Cell(f"{saved:,.1f}", "", True) if saved and len(runs) > 1 else None
        entries: list[Entry] = [_samples(one), "not recorded" if not cost else f"{cost:,.0f}", ratio]
        rows.append([run.name, one.title, len(one.rows), _at_targets(one), *entries])
    columns = ["Defence", "Evaluation", "Images", "Certified, %, at radius", "Samples", "Evaluations", "Times fewer"]
    return Table("Cost of certification, per image", columns, rows, names=2, notes=[COST] if rows else [])


def evaluations(rows: Sequence[CertifiedRecord]) -> float | None:
    """Mean network evaluations per image, as counted, or of the forecast procedure; None if unknown."""
    counts = [_evaluations(row) for row in rows]
    known = [count for count in counts if count is not None]
    return _mean(known) if rows and len(known) == len(rows) else None


def _evaluations(row: CertifiedRecord) -> float | None:
    if isinstance(row, ForecastRecord):
        return row.evaluations
    return None if row.cost is None else row.cost.evaluations


def _cost_ratio(other: Sequence[CertifiedRecord], rows: Sequence[CertifiedRecord]) -> float | None:
    """Evaluations of the ``other`` rows over those of ``rows``, on the images of both; None if unknown."""
    common = {row.index for row in other} & {row.index for row in rows}
    theirs, ours = (evaluations([row for row in part if row.index in common]) for part in (other, rows))
    return theirs / ours if theirs and ours else None


def _samples(evaluation: Certificates) -> str:
    """Mean samples per image, with those that choose the class; of the forecast procedure where there is one."""
    n0 = _certifier(evaluation).get("n0", 0)
    counts = [row.procedure if isinstance(row, ForecastRecord) else row.samples + n0 for row in evaluation.rows]
    return f"{_mean(counts):,.0f}"


def targets(evaluation: Certificates) -> list[float] | None:
    """Target radii of a certifier; None if it decides about all radii."""
    radii = _certifier(evaluation).get("targets")
    return None if radii is None else [float(radius) for radius in radii]


def is_forecast(rows: Sequence[CertifiedRecord]) -> bool:
    """True of predicted verdicts, which certify nothing."""
    return any(isinstance(row, ForecastRecord) for row in rows)


def is_undecided(row: CertifiedRecord, radius: float) -> bool:
    """True where a forecast leaves the verdict at ``radius`` open."""
    return isinstance(row, ForecastRecord) and radius in row.undecided


def _is_labelled(evaluation: Certificates) -> bool:
    return bool(_certifier(evaluation).get("labelled")) or is_forecast(evaluation.rows)


def _certificates(run: Run, evaluation: Certificates, radii: Sequence[float]) -> list[Entry]:
    chosen, rows = targets(evaluation), evaluation.rows
    shares = [_entry(rows, radius) if chosen is None or radius in chosen else None for radius in radii]
    abstained = evaluation.summary.metrics["abstained"]
    return [run.name, evaluation.title, len(rows), *shares, abstained, _samples(evaluation)]


def _entry(rows: Sequence[CertifiedRecord], radius: float) -> Entry:
    return Cell(_share(rows, radius), FORECAST) if is_forecast(rows) else certified_share(rows, radius)


def _linf_factors(certificates: Sequence[Certificates]) -> list[str]:
    """L-inf radii implied by an L2 radius r, one for each image size."""
    rows = (row for one in certificates for row in one.rows if row.radius_linf)
    return [f"r / {factor:g}" for factor in sorted({round(row.radius / row.radius_linf, 2) for row in rows})]


def _comparable(run: Run, evaluation: Certificates) -> str:
    """Key that evaluations share whose costs are compared: name, images and noise level."""
    sigma = _certifier(evaluation).get("sigma")
    return json.dumps([evaluation.source, run.config.get("data"), sigma], sort_keys=True, default=str)


def _at_targets(evaluation: Certificates) -> Cell:
    rows = evaluation.rows
    shares = [f"{_share(rows, radius)} at {radius:g}" for radius in targets(evaluation) or ()]
    return Cell(", ".join(shares) or "–", FORECAST if is_forecast(rows) else "")


def _share(rows: Sequence[CertifiedRecord], radius: float) -> str:
    """Certified accuracy in percent; a range where undecided verdicts may fall either way."""
    low = sum(is_certified(row, radius) and not is_undecided(row, radius) for row in rows) / len(rows)
    high = sum(is_certified(row, radius) or is_undecided(row, radius) for row in rows) / len(rows)
    return f"{100 * low:.1f}" if low == high else f"{100 * low:.1f} to {100 * high:.1f}"


def _certifier(evaluation: Certificates) -> Mapping[str, Any]:
    """Settings of an evaluation's certifier in the header."""
    settings: Mapping[str, Any] = evaluation.part.get("smoothing", {})
    return settings


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
