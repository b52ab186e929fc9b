"""Spreadsheets (CSV) as text."""

import csv
import io
from collections.abc import Iterable, Sequence


def as_csv(lines: Iterable[Sequence[object]]) -> str:
    """Lines of entries as CSV."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows(lines)
    return text.getvalue()
