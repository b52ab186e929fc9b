"""Rules that records obey by the header of their file, of many rows at once: True if all follow `HeaderRules`.

Where one does not, its row is validated by itself, which says what is wrong.
"""

from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
from scipy.special import betainc, ndtri

from common.records.column_rows import Rows
from common.records.column_rules import within
from common.records.columns import Values
from common.records.header_rules import (
    CERTIFIERS,
    PROTOCOL,
    ROUNDING,
    SHORT,
    SMOOTHING,
    HeaderRules,
    check_threat,
    kind_of,
)
from common.records.schema import ABSTAIN, CertifiedRecord, ForecastRecord, PredictionRecord
from common.units import parse_number

CLASSES = ("label", "prediction")
LISTED_CLASSES = ("predictions", "clean_predictions", "random_predictions")
_CLOSE = 1e-9  # relative: comparisons nearer than this are left to the validation of a row by itself


def follow(rows: Rows[Any], rules: HeaderRules) -> bool:
    """True if every row follows its header; False also where the header is malformed."""
    try:
        return _follow(rows, rules)
    except (ValueError, KeyError, TypeError, AttributeError):
        return False


def _follow(rows: Rows[Any], rules: HeaderRules) -> bool:
    if rules.classes is not None and any((values >= rules.classes).any() for values in _classes(rows)):
        return False
    part = rules.parts.get(rows.source)
    if part is None:
        return True
    draws, threat, smoothing = part.get("draws"), part.get("threat"), part.get("smoothing")
    if issubclass(rows.kind, PredictionRecord) and type(draws) is int:
        lengths = rows.lists("predictions").lengths
        if not ((lengths == 1) | (lengths == draws)).all():
            return False
    for name in PROTOCOL:
        if name in rows.columns and name in part and any(one != part[name] for one in set(rows.array(name).tolist())):
            return False
    if isinstance(threat, Mapping) and "eps" in rows.columns:
        for eps, norm in set(zip(rows.array("eps").tolist(), rows.array("norm").tolist(), strict=True)):
            check_threat(SimpleNamespace(eps=eps, norm=norm), threat)
    if isinstance(smoothing, Mapping) and issubclass(rows.kind, CertifiedRecord) and kind_of(smoothing) in CERTIFIERS:
        return _smoothing(rows, smoothing, rules.bounds[rows.source])
    return True


def _classes(rows: Rows[Any]) -> Iterator[Values]:
    yield from (rows.array(name) for name in CLASSES if name in rows.columns)
    yield from (rows.lists(name).flat for name in LISTED_CLASSES if name in rows.columns)


def _smoothing(rows: Rows[Any], part: Mapping[str, Any], known: Values) -> bool:
    n, n0, level, fixed = part["n"], part["n0"], float(parse_number(part["sigma"])), kind_of(part) == SMOOTHING
    samples, bound, radius = (rows.array(name) for name in ("samples", "p_lower", "radius"))
    if (samples != n).any() if fixed else (samples > n).any():
        return False
    if issubclass(rows.kind, ForecastRecord) and (rows.array("procedure") != n0 + n).any():
        return False
    if fixed and not _are_bounds(bound, rows.array("count"), n, float(part["alpha"]), known):
        return False
    largest = level * ndtri(np.minimum(bound + ROUNDING, 1 - 1e-16))
    if not within(radius, 0, largest.clip(min=0) * (1 + 10 * ROUNDING) * (1 - _CLOSE)):
        return False
    sure = bound > 0.5 + ROUNDING
    if not fixed or not sure.any():
        return True
    least = level * ndtri(np.minimum(bound[sure], 1 - 1e-16)) * (1 - SHORT)
    return bool((rows.array("prediction")[sure] != ABSTAIN).all() and (radius[sure] >= least * (1 + _CLOSE)).all())


def _are_bounds(bounds: Values, counts: Values, n: int, alpha: float, known: Values) -> bool:
    """True if each is the Clopper-Pearson bound of its count in n samples, to 2 units of the last digit.

    The bound p solves I_p(count, n - count + 1) = alpha, and I grows with p. ``known``: bounds by count that were seen
    before, NaN of others; new ones are added.
    """
    few = counts.max() < len(known)
    new = known[counts] != bounds if few else np.ones(len(counts), bool)
    p, k, slack = bounds[new], counts[new], 2 * ROUNDING * (1 - _CLOSE)
    low, high = ((p + side * slack).clip(0, 1) for side in (-1, 1))
    some = k > 0
    near = np.where(some, (_share(k, n, low) <= alpha) & (alpha <= _share(k, n, high)), p <= slack)
    if few and near.all():
        known[k] = p
    return bool(near.all())


def _share(counts: Values, n: int, p: Values) -> Values:
    return np.asarray(betainc(counts.clip(min=1), n - counts.clip(min=1) + 1, p))
