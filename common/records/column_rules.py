"""Rules that a record obeys by itself, of many rows at once: True if all obey `common.records.consistency`.

Where one does not, its row is validated by itself, which says what is wrong.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from common.records.column_rows import Rows
from common.records.columns import Lists, Values
from common.records.consistency import LARGEST_EPS, LARGEST_INDEX, LARGEST_RADIUS, slack
from common.records.schema import Kind


def obey(rows: Rows[Any]) -> bool:
    """True if every row obeys the rules of its kind; the seed aside, which is in no column."""
    return _key(rows) and _RULES[rows.kind.kind](rows)


def within(values: Values, low: Any, high: Any) -> bool:
    """True if all values are in low .. high, either of which may have a value per row."""
    return bool(((values >= low) & (values <= high)).all())


def _key(rows: Rows[Any]) -> bool:
    return within(rows.image, 0, LARGEST_INDEX) and within(rows.label, 0, np.inf)


def _classes(lists: Lists, counts: Values | int, empty: bool = False) -> bool:
    """True for classes, as many per row as ``counts``, or none where ``empty`` rows are allowed."""
    right = (lists.lengths == counts) | (lists.lengths == 0 if empty else False)
    return bool(right.all()) and within(lists.flat, 0, np.inf)


def _decisions(rows: Rows[Any]) -> bool:
    lists = rows.lists("predictions")
    return within(lists.lengths, 1, np.inf) and _classes(lists, lists.lengths)


def _attacked(rows: Rows[Any]) -> bool:
    counts = rows.lists("predictions").lengths
    return (
        _decisions(rows)
        and _distance(rows)
        and within(rows.array("votes"), 1, np.inf)
        and bool(((rows.array("rule") == "single") == (rows.array("votes") == 1)).all())
        and within(rows.array("resubmissions"), 1, np.inf)
        and within(rows.lists("curve").flat, 0, 1)
        and within(np.nan_to_num(rows.array("dead")), 0, 1)
        and _classes(rows.lists("clean_predictions"), counts)
        and _classes(rows.lists("random_predictions"), counts, empty=True)
    )


def _distance(rows: Rows[Any]) -> bool:
    distance, eps, norms = rows.array("distance"), rows.array("eps"), rows.array("norm")
    if not (rows.array("within_budget").all() and (eps > 0).all() and within(eps, 0, LARGEST_EPS)):
        return False
    largest = np.zeros(len(rows))
    for norm in set(norms.tolist()):
        relative, absolute = slack(norm)
        mask = norms == norm
        largest[mask] = eps[mask] * (1 + relative) + absolute
    return within(distance, 0, largest)


def _certified(rows: Rows[Any]) -> bool:
    prediction, radius = rows.array("prediction"), rows.array("radius")
    return (
        within(prediction, -1, np.inf)
        and within(radius, 0, LARGEST_RADIUS)
        and not (radius[prediction == -1] != 0).any()
        and within(rows.array("radius_linf"), 0, radius)
        and within(rows.array("p_lower"), 0, 1)
        and within(rows.array("count"), 0, rows.array("samples"))
    )


def _forecast(rows: Rows[Any]) -> bool:
    least, undecided = rows.array("samples").clip(min=1), rows.lists("undecided").flat
    return _certified(rows) and within(rows.array("procedure"), least, np.inf) and within(undecided, 0, np.inf)


_RULES: dict[Kind, Callable[[Rows[Any]], bool]] = {
    Kind.CLEAN: _decisions,
    Kind.ATTACKED: _attacked,
    Kind.CERTIFIED: _certified,
    Kind.FORECAST: _forecast,
    Kind.CLAIMED: _certified,
    Kind.GRADIENT_CHECK: lambda rows: False,  # few, and of nested parts
}
