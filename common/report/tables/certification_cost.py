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
from common.records.summary import certified
from common.report.runs import Run
from common.report.tables.certification import (
    FORECAST,
    Certificates,
    Certified,
    Pair,
    comparable,
    is_forecast,
    labelled_note,
    mean,
    mean_samples,
    shown_share,
    targets,
    undecided,
    unequal_samples,
)
from common.report.tables.table import Cell, Entry, Table

Group = dict[bytes, list[Pair]]  # comparable evaluations by their images, the most expensive first
COST = (
    "Network evaluations per image are counted, every row that passes a network; samples include those that choose the "
    "class. A forecast predicts the verdicts of the fixed-n procedure from fewer of its samples; its samples and "
    "evaluations are those of the procedure itself. The ratio is to the most expensive run of the same evaluation, "
    'data, noise and alpha, on the images of both; "certified" is the ratio on those that the cheaper run certifies at '
    "its smallest target radius, without images that it gives up early."
)


def certification_cost_table(runs: Sequence[Run]) -> Table:
    """Per run and certifier: certified accuracy at its target radii, samples, network evaluations, and the saving."""
    pairs = [((run, evaluation), comparable(run, evaluation)) for run in runs for evaluation in run.certified]
    groups: dict[str, Group] = defaultdict(lambda: defaultdict(list))
    for pair, key in pairs:
        groups[key][_images(pair)].append(pair)
    for some in (some for group in groups.values() for some in group.values()):
        some.sort(key=_total, reverse=True)
    rows: list[list[Entry]] = []
    compared: list[tuple[Pair, Pair]] = []
    for pair, key in pairs:
        run, one = pair
        dearest, *times = _savings(pair, groups[key]) if len(runs) > 1 else (pair, None, None)
        compared.append((dearest, pair))
        cost = evaluations(one.rows)
        entries: list[Entry] = [mean_samples(one), "not recorded" if not cost else f"{cost:,.0f}"]
        ratios: list[Entry] = [None if ratio is None else Cell(f"{ratio:,.1f}", "", True) for ratio in times]
        rows.append([run.name, one.title, len(one.rows), _at_targets(one), *entries, *ratios])
    columns = ["Images", "Certified, %, at radius", "Samples", "Evaluations", "Times fewer", "Times fewer, certified"]
    notes = [COST, *labelled_note(one for (_, one), _ in pairs), *unequal_samples(compared)] if rows else []
    names = ["Defence", "Evaluation"]
    return Table("Cost of certification, per image", [*names, *columns], rows, names=len(names), notes=notes)


def evaluations(rows: Certified) -> float | None:
    """Mean network evaluations per image, as counted, or of the forecast procedure; None if unknown."""
    counts = _counts(rows)
    return None if not len(counts) or np.isnan(counts).any() else mean(counts)


def _images(pair: Pair) -> bytes:
    return pair[1].rows.image.tobytes()


def _total(pair: Pair) -> float:
    """Evaluations of all images, by which runs on the same images are ordered."""
    return evaluations(pair[1].rows) or 0.0


def _savings(pair: Pair, group: Group) -> tuple[Pair, float | None, float | None]:
    """The most expensive comparable evaluation, and how many times fewer network evaluations this one takes.

    On the images of both, and on those of them that this one certifies; None if unknown.
    """
    _, one = pair
    images = _images(pair)
    others = [group[images][0], *(other for own, some in group.items() if own != images for other in some)]
    ratios = [(times, other) for other in others if (times := _cost_ratio(other[1].rows, one.rows))]
    if not ratios:
        return pair, None, None
    times, dearest = max(ratios, key=itemgetter(0))
    radii = targets(one) or [radius for some in group.values() for _, other in some for radius in targets(other) or ()]
    radius = min(radii, default=0.0)
    reached = certified(one.rows, radius) & ~undecided(one.rows, radius)
    return dearest, times, _cost_ratio(dearest[1].rows, one.rows.take(reached))


def _counts(rows: Certified) -> Values:
    """Network evaluations of each image (n,), NaN where unknown."""
    if not is_forecast(rows):
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
