"""Table of the cost of certification.

Network evaluations are all rows that pass a network, also those that fill up a call: with calls of automatic size they
depend on the machine by some percent.
"""

from collections import defaultdict
from collections.abc import Sequence
from operator import itemgetter

import numpy as np

from common.records.column_fields import COSTS, is_unknown
from common.records.column_rows import common_places
from common.records.columns import Values
from common.records.schema import ForecastRecord
from common.report.runs import Run
from common.report.tables.certification import (
    FORECAST,
    Certificates,
    Certified,
    Pair,
    comparable,
    is_forecast,
    mean,
    mean_samples,
    shown_share,
    targets,
    unequal_samples,
)
from common.report.tables.table import Cell, Entry, Table

COST = (
    "Network evaluations per image are counted, every row that passes a network; samples include those that choose the "
    "class. A forecast predicts the verdicts of the fixed-n procedure from fewer of its samples; its samples and "
    "evaluations are those of the procedure itself. The ratio is to the most expensive run of the same evaluation, "
    "data, noise and alpha, on the images of both."
)


def certification_cost_table(runs: Sequence[Run]) -> Table:
    """Per run and certifier: certified accuracy at its target radii, samples, network evaluations, and the saving."""
    pairs = [((run, evaluation), comparable(run, evaluation)) for run in runs for evaluation in run.certified]
    groups: dict[str, dict[bytes, list[Pair]]] = defaultdict(lambda: defaultdict(list))
    for pair, key in pairs:
        groups[key][_images(pair)].append(pair)
    dearest = {key: {images: max(some, key=_total) for images, some in group.items()} for key, group in groups.items()}
    rows: list[list[Entry]] = []
    compared: list[tuple[Pair, Pair]] = []
    for pair, key in pairs:
        (run, one), images = pair, _images(pair)
        others = [
            dearest[key][images],
            *(other for own, some in groups[key].items() if own != images for other in some),
        ]
        saved, reference = _saving(pair, others) if len(runs) > 1 else (None, pair)
        compared.append((reference, pair))
        cost, ratio = evaluations(one.rows), Cell(f"{saved:,.1f}", "", True) if saved else None
        entries: list[Entry] = [mean_samples(one), "not recorded" if not cost else f"{cost:,.0f}", ratio]
        rows.append([run.name, one.title, len(one.rows), _at_targets(one), *entries])
    columns = ["Defence", "Evaluation", "Images", "Certified, %, at radius", "Samples", "Evaluations", "Times fewer"]
    notes = [COST, *unequal_samples(compared)] if rows else []
    return Table("Cost of certification, per image", columns, rows, names=2, notes=notes)


def evaluations(rows: Certified) -> float | None:
    """Mean network evaluations per image, as counted, or of the forecast procedure; None if unknown."""
    counts = _counts(rows)
    return None if not len(counts) or np.isnan(counts).any() else mean(counts)


def _images(pair: Pair) -> bytes:
    return pair[1].rows.image.tobytes()


def _total(pair: Pair) -> float:
    """Evaluations of all images, by which runs on the same images are ordered."""
    return evaluations(pair[1].rows) or 0.0


def _saving(pair: Pair, others: Sequence[Pair]) -> tuple[float | None, Pair]:
    """How many times fewer evaluations than the most expensive of the ``others``, and which that is."""
    ratios = [(times, other) for other in others if (times := _cost_ratio(other[1].rows, pair[1].rows))]
    return max(ratios, key=itemgetter(0), default=(None, pair))


def _counts(rows: Certified) -> Values:
    """Network evaluations of each image (n,), NaN where unknown."""
    if not issubclass(rows.kind, ForecastRecord):
        return rows.costs[:, COSTS.index("evaluations")]
    counts = rows.array("evaluations")
    return np.where(is_unknown(counts), np.nan, counts)


def _cost_ratio(other: Certified, rows: Certified) -> float | None:
    """Evaluations of the ``other`` rows over those of ``rows``, on the images of both; None if unknown."""
    one, two = common_places(other, rows)
    counts = (_counts(other)[one], _counts(rows)[two])
    if not len(one) or any(np.isnan(known).any() for known in counts):
        return None
    theirs, ours = map(mean, counts)
    return theirs / ours if theirs and ours else None


def _at_targets(evaluation: Certificates) -> Cell:
    rows = evaluation.rows
    shares = [f"{shown_share(rows, radius)} at {radius:g}" for radius in targets(evaluation) or ()]
    return Cell(", ".join(shares) or "–", FORECAST if is_forecast(rows) else "")
