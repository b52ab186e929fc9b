"""Tables of certified accuracy and of claimed radii."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np

from common.records.column_rows import Rows
from common.records.columns import Values
from common.records.schema import CertifiedRecord, ForecastRecord
from common.records.summary import certified, certified_share
from common.report.runs import Evaluation, Run
from common.report.tables.table import Cell, Entry, Table

Certified = Rows[CertifiedRecord]
Certificates = Evaluation[CertifiedRecord]
Pair = tuple[Run, Certificates]
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
LABELLED = (
    "Labelled runs and forecasts test the label's class alone, and need the label: an image of which another class "
    "would be certified counts as abstained. In a labelled run it takes no samples but those that choose the class."
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
    notes += labelled_note(one for _, one in pairs)
    return Table("Certified accuracy, %, at L2 radius r in pixels", columns, rows, notes=notes)


def claims_table(runs: Sequence[Run]) -> Table:
    """Claimed radii beside those that the same runs certify, of the correctly classified images."""
    rows: list[list[Entry]] = []
    for run in runs:
        proven = [(one, "certificate") for one in run.certified if not is_forecast(one.rows)]
        claims: list[tuple[Certificates, str]] = [(one, "claimed, not certified") for one in run.claimed]
        for one, kind in [*proven, *claims] if claims else []:
            correct = one.rows.array("prediction") == one.rows.label
            radii = one.rows.array("radius")[correct].tolist() or [0.0]
            ends = [f"{value:.3g}" for value in (median(radii), max(radii))]
            rows.append([run.name, one.title, kind, len(one.rows), int(correct.sum()), *ends])
    columns = ["Defence", "Evaluation", "Kind", "Images", "Correct", "Median radius", "Largest radius"]
    return Table("Certified radii and claimed ones, L2, pixels", columns, rows, names=3, notes=[CLAIMS] if rows else [])


def mean_samples(evaluation: Certificates) -> str:
    """Mean samples per image, with those that choose the class; of the forecast procedure where there is one."""
    rows = evaluation.rows
    forecast = is_forecast(rows)
    counts = rows.array("procedure") if forecast else rows.array("samples") + _certifier(evaluation).get("n0", 0)
    return f"{mean(counts):,.0f}"


def targets(evaluation: Certificates) -> list[float] | None:
    """Target radii of a certifier; None if it decides about all radii."""
    radii = _certifier(evaluation).get("targets")
    return None if radii is None else [float(radius) for radius in radii]


def is_forecast(rows: Certified) -> bool:
    """True of predicted verdicts, which certify nothing."""
    return issubclass(rows.kind, ForecastRecord)


def undecided(rows: Certified, radius: float) -> Values:
    """Mask (n,): a forecast leaves the verdict at ``radius`` open."""
    if not is_forecast(rows):
        return np.zeros(len(rows), bool)
    open_radii = rows.lists("undecided")
    return open_radii.totals((open_radii.flat == radius).astype(np.int64)) > 0


def labelled_note(evaluations: Iterable[Certificates]) -> list[str]:
    """Note on evaluations that test the label's class alone; none without any."""
    return [LABELLED] if any(_certifier(one).get("labelled") or is_forecast(one.rows) for one in evaluations) else []


def _certificates(run: Run, evaluation: Certificates, radii: Sequence[float]) -> list[Entry]:
    chosen, rows = targets(evaluation), evaluation.rows
    shares = [_entry(rows, radius) if chosen is None or radius in chosen else None for radius in radii]
    abstained = evaluation.summary.metrics["abstained"]
    return [run.name, evaluation.title, len(rows), *shares, abstained, mean_samples(evaluation)]


def _entry(rows: Certified, radius: float) -> Entry:
    return Cell(shown_share(rows, radius), FORECAST) if is_forecast(rows) else certified_share(rows, radius)


def _linf_factors(certificates: Sequence[Certificates]) -> list[str]:
    """L-inf radii implied by an L2 radius r, one for each image size."""
    factors: set[float] = set()
    for rows in (one.rows for one in certificates):
        known = rows.array("radius_linf") > 0
        ratios = rows.array("radius")[known] / rows.array("radius_linf")[known]
        factors |= {round(ratio, 2) for ratio in np.unique(ratios).tolist()}
    return [f"r / {factor:g}" for factor in sorted(factors)]


def comparable(run: Run, evaluation: Certificates) -> str:
    """Key that evaluations share whose verdicts and costs are compared: name, images, noise level and alpha.

    Certificates of another alpha hold with another probability. Numbers of samples may differ: n0 and n are means to
    the same certificate; `unequal_samples` names an n of its own, by which some radii are out of reach.
    """
    settings = _certifier(evaluation)
    parts = [evaluation.source, run.config.get("data"), settings.get("sigma"), settings.get("alpha")]
    return json.dumps(parts, sort_keys=True, default=str)


def unequal_samples(compared: Iterable[tuple[Pair, Pair]]) -> list[str]:
    """Note that names evaluations which are compared though their n differ; none where all are equal."""
    largest: dict[str, str] = {}
    for pairs in compared:
        numbers = [_certifier(one).get("n") for _, one in pairs]
        if numbers[0] != numbers[1]:
            names = [f"{run.name}, {one.title}" for run, one in pairs]
            largest |= {name: f"{n:,}" if n else "none" for name, n in zip(names, numbers, strict=True)}
    listed = "; ".join(f"{name}: {n}" for name, n in largest.items())
    return [f"Compared though they take different numbers of samples n at most: {listed}."] if largest else []


def shown_share(rows: Certified, radius: float) -> str:
    """Certified accuracy in percent; a range where undecided verdicts may fall either way."""
    reached, still_open = certified(rows, radius), undecided(rows, radius)
    low, high = (int(mask.sum()) / len(rows) for mask in (reached & ~still_open, reached | still_open))
    return f"{100 * low:.1f}" if low == high else f"{100 * low:.1f} to {100 * high:.1f}"


def _certifier(evaluation: Certificates) -> Mapping[str, Any]:
    """Settings of an evaluation's certifier in the header."""
    settings: Mapping[str, Any] = evaluation.part.get("smoothing", {})
    return settings


def mean(values: Values) -> float:
    """Mean of some values (n,), whose sum is rounded once."""
    return math.fsum(values.tolist()) / len(values)
