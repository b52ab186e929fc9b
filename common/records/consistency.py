"""Rules that a record obeys by itself: they hold for every row that an evaluator writes, and are checked on reading.

Rows are read a million at a time, so a message is made only where a rule is broken.
"""

from collections.abc import Callable
from typing import Any

LARGEST_INDEX = 2**32 - 1
LARGEST_RADIUS = 1000.0  # pixels; no two images of fewer than a million values are farther apart
LARGEST_EPS = 1e9  # no image has as many values, so none is as far away in L1
_SLACK = {"Linf": (1e-5, 1e-6), "L2": (1e-3, 1e-3), "L1": (1e-2, 0.1)}  # relative and absolute, by norm
_OTHER_SLACK = (1e-2, 1e-6)


def contradiction(name: str, must: str, value: Any) -> ValueError:
    """Error of a field that breaks a rule."""
    return ValueError(f"a record's {name} must be {must}; got {value!r}")


def check_key(index: int, label: int, seed: int) -> None:
    """Image, class and seed of a row."""
    if not 0 <= index <= LARGEST_INDEX:
        raise contradiction("index", "in 0 .. 2^32 - 1", index)
    if label < 0:
        raise contradiction("label", "a class, at least 0", label)
    if not 0 <= seed < 2**63:
        raise contradiction("seed", "in 0 .. 2^63 - 1", seed)


def check_classes(name: str, predictions: list[int], count: int | None = None) -> None:
    """Predicted classes, at least one, or exactly ``count``."""
    if not predictions or min(predictions) < 0:
        raise contradiction(name, "one or more classes, each at least 0", predictions)
    if count is not None and len(predictions) != count:
        raise contradiction(f"{name} in number", f"as many as its predictions, {count}", len(predictions))


def check_distance(distance: float, eps: float, norm: str, within_budget: bool) -> None:
    """Distance of an attacked image: within the budget, up to rounding. Anything else is a bug, not a result."""
    if not 0 < eps <= LARGEST_EPS:
        raise contradiction("eps", f"above 0 and at most {LARGEST_EPS:g}", eps)
    if not within_budget:
        raise contradiction("within_budget", "true: an image outside the budget is no result", within_budget)
    relative, absolute = slack(norm)
    if not 0 <= distance <= eps * (1 + relative) + absolute:
        raise contradiction("distance", f"in 0 .. eps = {eps}", distance)


def slack(norm: str) -> tuple[float, float]:
    """Relative and absolute rounding of a distance in a norm."""
    return _SLACK.get(norm, _OTHER_SLACK)


def check_protocol(rule: str, votes: int, resubmissions: int) -> None:
    """Decision rule and number of submissions."""
    if votes < 1 or (rule == "single") != (votes == 1):
        raise contradiction("votes", f'1 for the rule "single" and more for a vote ({rule!r} here)', votes)
    if resubmissions < 1:
        raise contradiction("resubmissions", "at least 1", resubmissions)


def check_statistics(queries: int | None, curve: list[float] | None, dead: float | None) -> None:
    """Statistics that an attack reports: shares in [0,1], a number of queries."""
    if queries is not None and queries < 0:
        raise contradiction("queries", "at least 0", queries)
    if curve and not 0 <= min(curve) <= max(curve) <= 1:
        raise contradiction("curve", "shares in 0 .. 1", curve)
    if dead is not None and not 0 <= dead <= 1:
        raise contradiction("dead", "a share in 0 .. 1", dead)


def check_certificate(prediction: int, radius: float, radius_linf: float, p_lower: float) -> None:
    """Radii and bound of a certificate; one that abstains certifies nothing."""
    if prediction < -1:
        raise contradiction("prediction", "a class, or -1 for an abstention", prediction)
    if not 0 <= radius <= LARGEST_RADIUS:
        raise contradiction("radius", f"in 0 .. {LARGEST_RADIUS:g} pixels", radius)
    if radius and prediction == -1:
        raise contradiction("radius", "0, since its prediction abstains", radius)
    if not 0 <= radius_linf <= radius:
        raise contradiction("radius_linf", f"in 0 .. radius = {radius}", radius_linf)
    if not 0 <= p_lower <= 1:
        raise contradiction("p_lower", "a probability in 0 .. 1", p_lower)


def check_samples(count: int, samples: int) -> None:
    """Samples that agree, of all samples."""
    if not 0 <= count <= samples:
        raise contradiction("count", f"in 0 .. samples = {samples}", count)


def check_forecast(procedure: int, samples: int, undecided: list[float], evaluations: int | None) -> None:
    """Size of the predicted procedure, which draws at least the samples of its prefix, and radii left open."""
    if procedure < max(1, samples):
        raise contradiction("procedure", f"at least its {samples} samples", procedure)
    if undecided and min(undecided) < 0:
        raise contradiction("undecided", "radii, at least 0", undecided)
    if evaluations is not None and evaluations < 0:
        raise contradiction("evaluations", "at least 0", evaluations)


def check_verdict(verified: bool, passed: bool) -> None:
    """Verdict of a gradient check, which is that of its findings."""
    if verified != passed:
        raise contradiction("verified", f"{passed}, as its findings say", verified)


def _attacked(row: Any) -> None:
    check_classes("predictions", row.predictions)
    check_distance(row.distance, row.eps, row.norm, row.within_budget)
    check_protocol(row.rule, row.votes, row.resubmissions)
    check_statistics(row.queries, row.curve, row.dead)
    if row.role.value != "worst_case":  # derived from several rows, on some of their draws
        check_classes("clean_predictions", row.clean_predictions, len(row.predictions))
        if row.random_predictions:
            check_classes("random_predictions", row.random_predictions, len(row.predictions))


def _certified(row: Any) -> None:
    check_certificate(row.prediction, row.radius, row.radius_linf, row.p_lower)
    check_samples(row.count, row.samples)


def _forecast(row: Any) -> None:
    _certified(row)
    check_forecast(row.procedure, row.samples, row.undecided, row.evaluations)


_RULES: dict[str, Callable[[Any], None]] = {
    "clean": lambda row: check_classes("predictions", row.predictions),
    "attacked": _attacked,
    "certified": _certified,
    "forecast": _forecast,
    "claimed": _certified,
    "gradient_check": lambda row: check_verdict(row.verified, all(one.passed for one in row.findings)),
}


def check_record(row: Any) -> None:
    """Check a `Record` by the rules of its kind. Raises ``ValueError`` with the name of a field that breaks one."""
    check_key(row.index, row.label, row.seed)
    _RULES[row.kind.value](row)
