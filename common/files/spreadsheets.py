"""Spreadsheets (CSV) as text."""

import csv
import io
from collections.abc import Iterable, Sequence

from common.naming.outside_text import as_entry


def as_csv(lines: Iterable[Sequence[object]]) -> str:
    """Lines of entries as CSV; text that would be a formula is marked as text (`as_entry`)."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([as_entry(entry) for entry in line] for line in lines)
    return text.getvalue()
