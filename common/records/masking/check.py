"""Result of a masking check, and the paired test that decides it."""

from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import bdtrc

from common.records.schema import AttackedRecord

Rows = Sequence[AttackedRecord]

SIGNIFICANCE = 0.01  # one-sided level of the paired comparisons: rate of false alarms
FEWEST = 7  # least number of differing pairs that can be significant: 0.5^7 < 0.01 < 0.5^6


@dataclass(frozen=True)
class MaskingCheck:
    """``name``, ``passed``, and one ``sentence`` with the measurement and its meaning.

    ``decided=False``: there are too few images to decide; ``passed`` is then True.
    """

    name: str
    passed: bool
    sentence: str
    decided: bool = True


def breaks_more(before: Sequence[bool], after: Sequence[bool]) -> bool:
    """True if significantly more images turned from correct to wrong than back: one-sided exact McNemar test."""
    lost, won = flips(before, after)
    return bool(bdtrc(lost - 1, lost + won, 0.5) < SIGNIFICANCE) if lost else False


def flips(before: Sequence[bool], after: Sequence[bool]) -> tuple[int, int]:
    """Numbers of images that turned from correct to wrong, and back."""
    lost = sum(b and not a for b, a in zip(before, after, strict=True))
    won = sum(a and not b for b, a in zip(before, after, strict=True))
    return lost, won


def in_percent(share: float) -> str:
    """``"12.5 %"``."""
    return f"{100 * share:.1f} %"


def first_correct(rows: Rows) -> list[bool]:
    """Correctness of the first decision on each attacked image."""
    return [row.predictions[0] == row.label for row in rows]


def first_clean_correct(rows: Rows) -> list[bool]:
    """Correctness of the first decision on each clean image."""
    return [row.clean_predictions[0] == row.label for row in rows]


def share_of(flags: Sequence[bool]) -> str:
    """Share of true flags, in percent."""
    return in_percent(sum(flags) / max(1, len(flags)))
