"""Rules that a record obeys by the header of its file: budget, samples and classes are those of the evaluator there."""

import math
from collections import defaultdict
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from scipy.special import betaincinv, ndtri

from common.records.columns import Values
from common.records.consistency import contradiction
from common.records.rounding import DIGITS
from common.records.schema import ABSTAIN, CertifiedRecord, ForecastRecord, PredictionRecord, Record, Source
from common.units import parse_number

_NORMS = {"inf": "Linf", "2": "L2", "1": "L1"}
SMOOTHING = "Smoothing"
CERTIFIERS = (SMOOTHING, "Sequential", "Forecast")  # with the settings of a `Smoothing` and its radius
MOST_BOUNDS = 1 << 17  # counts whose bounds are kept
ROUNDING = 10.0**-DIGITS
SHORT = 2e-3  # relative: a radius that is smaller by more does not follow from its bound
PROTOCOL = ("knows", "resubmissions", "rule", "votes")


class HeaderRules:
    """Check of rows against a header's ``config``, which describes the evaluators and the data.

    Evaluators that the header does not list, and parts of classes other than ours, are not checked. ``parts`` are the
    listed ones by their identity, ``classes`` is the number of classes, None where it is not stated. ``bounds``: those
    by count that were checked, NaN of others, of each evaluation.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        listed = config.get("evaluators")
        parts = [part for part in listed if isinstance(part, Mapping)] if isinstance(listed, list) else []
        self.parts = {Source.described(part): part for part in parts}
        holders = [*(part.get("smoothing") for part in parts), config.get("classifier"), config.get("data")]
        counts = [one.get("num_classes") for one in holders if isinstance(one, Mapping)]
        self.classes = min((count for count in counts if type(count) is int), default=None)

        self.bounds: dict[Source, Values] = defaultdict(lambda: np.full(MOST_BOUNDS, np.nan))

    def check(self, row: Record) -> None:
        """Raise ``ValueError`` with the field that differs from the header."""
        if self.classes is not None:
            _check_classes(row, self.classes)
        part = self.parts.get(row.source)
        if part is None:
            return
        draws = part.get("draws")
        if isinstance(row, PredictionRecord) and type(draws) is int and len(row.predictions) not in (1, draws):
            raise contradiction("predictions", f"1 or {draws} in number, draws in the header", row.predictions)
        for name in PROTOCOL:
            if hasattr(row, name) and name in part and getattr(row, name) != part[name]:
                raise contradiction(name, f"{part[name]!r}, as in the header", getattr(row, name))
        threat, smoothing = part.get("threat"), part.get("smoothing")
        if isinstance(threat, Mapping) and hasattr(row, "eps"):
            check_threat(row, threat)
        if isinstance(smoothing, Mapping) and isinstance(row, CertifiedRecord):
            _check_smoothing(row, smoothing)


def _check_classes(row: Record, count: int) -> None:
    classes = {"label": [row.label]}
    names = ("predictions", "clean_predictions", "random_predictions") if isinstance(row, PredictionRecord) else ()
    classes |= {name: getattr(row, name, []) for name in names}
    if isinstance(row, CertifiedRecord):
        classes["prediction"] = [row.prediction]
    for name, values in classes.items():
        if values and max(values) >= count:
            raise contradiction(name, f"below {count}, the number of classes in the header", max(values))


def check_threat(row: Any, threat: Mapping[str, Any]) -> None:
    """Budget of a row, its ``eps`` and ``norm``, by that of the header."""
    if "eps" in threat:
        eps = float(parse_number(threat["eps"]))
        if not math.isclose(row.eps, eps, rel_tol=10 * ROUNDING):
            raise contradiction("eps", f"{eps:g}, as in the header", row.eps)
    norm = _NORMS.get(str(threat.get("norm")).removesuffix(".0"))
    if norm is not None and kind_of(threat) == "ThreatModel" and row.norm != norm:
        raise contradiction("norm", f"{norm}, as in the header", row.norm)


def _check_smoothing(row: CertifiedRecord, smoothing: Mapping[str, Any]) -> None:
    kind = kind_of(smoothing)
    if kind not in CERTIFIERS:
        return
    n, n0, level = smoothing["n"], smoothing["n0"], float(parse_number(smoothing["sigma"]))
    if (row.samples != n) if kind == SMOOTHING else row.samples > n:
        raise contradiction("samples", f"{'' if kind == SMOOTHING else 'at most '}{n}, n in the header", row.samples)
    if isinstance(row, ForecastRecord) and row.procedure != n0 + n:
        raise contradiction("procedure", f"{n0 + n}, n0 + n in the header", row.procedure)
    if kind == SMOOTHING and abs(row.p_lower - _lower(row.count, n, float(smoothing["alpha"]))) > 2 * ROUNDING:
        raise contradiction("p_lower", f"the bound of {row.count} in {n} samples", row.p_lower)
    largest = level * float(ndtri(min(row.p_lower + ROUNDING, 1 - 1e-16)))  # p_lower is rounded down
    if row.radius > max(largest, 0.0) * (1 + 10 * ROUNDING):
        raise contradiction("radius", f"at most {max(largest, 0.0):g}, which follows from its p_lower", row.radius)
    if kind != SMOOTHING or row.p_lower <= 0.5 + ROUNDING:
        return
    if row.prediction == ABSTAIN:
        raise contradiction("prediction", f"a class, since its p_lower is {row.p_lower}", row.prediction)
    least = level * float(ndtri(min(row.p_lower, 1 - 1e-16)))
    if row.radius < least * (1 - SHORT):
        raise contradiction("radius", f"at least {least:g}, which follows from its p_lower", row.radius)


def kind_of(part: Mapping[str, Any]) -> str:
    """Name of a part's class, if it is one of the room of robustness."""
    room, _, name = str(part.get("class")).rpartition(".")
    return name if room.split(".") == ["common", "robustness"] else ""


@lru_cache(maxsize=2**14)
def _lower(count: int, n: int, alpha: float) -> float:
    """Clopper-Pearson bound of ``count`` in ``n`` samples at confidence 1 - alpha."""
    return float(betaincinv(count, n - count + 1, alpha)) if count else 0.0
