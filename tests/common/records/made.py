"""Records for tests, with defaults for the fields that a test does not look at."""

from collections.abc import Sequence
from typing import Any

from common.records.schema import AttackedRecord, CertifiedRecord, CleanRecord, Record


def clean_record(index: int = 0, predictions: Any = (1,), label: int = 1, evaluator: str = "clean", **fields: Any):
    return CleanRecord(evaluator=evaluator, index=index, label=label, predictions=list(predictions), **fields)


def attacked_record(index: int = 0, predictions: Any = (1,), label: int = 1, evaluator: str = "pgd", **fields: Any):
    """Clean predictions are correct, the distance is eps in L-inf, and eps 8/255 or a larger distance, unless given."""
    far = fields.get("distance", 0.0)
    eps = max(8 / 255, far) if isinstance(far, int | float) else 8 / 255
    fields = {"clean_predictions": [label] * len(predictions), "norm": "Linf", "eps": eps, **fields}
    fields = {"distance": fields["eps"], **fields}
    return AttackedRecord(evaluator=evaluator, index=index, label=label, predictions=list(predictions), **fields)


def certified_record(
    index: int = 0,
    prediction: int = 1,
    radius: float = 0.5,
    label: int = 1,
    kind: type = CertifiedRecord,
    **fields: Any,
):
    """A certificate of 3 x 32 x 32 pixels; ``kind`` may be a forecast or a claim."""
    fields = {"evaluator": "certified", "samples": 100, "p_lower": 0.9, "radius_linf": radius / 3072**0.5, **fields}
    return kind(index=index, label=label, prediction=prediction, radius=radius, **fields)


def rows_of(run: Any, title: str) -> Sequence[Record]:
    """Rows of a report's run, of the evaluation with this title."""
    (evaluation,) = [one for one in [*run.recorded, *run.worst_cases] if one.title == title]
    return evaluation.rows
