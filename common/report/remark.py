"""A sentence on what limits the numbers of a report, and its gravity."""

from dataclasses import dataclass
from typing import Literal

Severity = Literal["failed", "warning", "note"]


@dataclass(frozen=True)
class Remark:
    """One ``sentence`` and its gravity: a "failed" check, a "warning" that a number may be too high, or a "note"."""

    level: Severity
    sentence: str
