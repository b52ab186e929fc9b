"""Result of a masking check, and the paired test that decides it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy.special import bdtrc

from common.records.column_rows import Rows
from common.records.columns import Values
from common.records.schema import AttackedRecord
from common.records.summary import correct_shares

Attacked = Sequence[AttackedRecord]

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


def transfers_from_itself(part: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """True if an evaluator, by its description ``part``, transfers images from the very classifier of the run.

    Such an attack uses the gradient of what it attacks: it is a white-box one, whatever its rows say.
    """
    attack = part.get("attack")
    source = attack.get("source") if isinstance(attack, Mapping) else None
    return source is not None and source == config.get("classifier")


def breaks_more(before: Values, after: Values) -> bool:
    """True if significantly more images turned from correct to wrong than back: one-sided exact McNemar test."""
    lost, won = flips(before, after)
    return bool(bdtrc(lost - 1, lost + won, 0.5) < SIGNIFICANCE) if lost else False


def flips(before: Values, after: Values) -> tuple[int, int]:
    """Numbers of images that turned from correct to wrong, and back."""
    return int((before & ~after).sum()), int((after & ~before).sum())


def in_percent(share: float) -> str:
    """``"12.5 %"``."""
    return f"{100 * share:.1f} %"


def first_correct(rows: Attacked, predictions: str = "predictions") -> Values:
    """Correctness (n,) of the first decision on each attacked image, or in another field of ``predictions``."""
    table = Rows.of(rows)
    lists = table.lists(predictions)
    correct: Values = lists.flat[lists.starts] == table.label
    return correct


def first_clean_correct(rows: Attacked) -> Values:
    """Correctness (n,) of the first decision on each clean image."""
    return first_correct(rows, "clean_predictions")


def all_correct(rows: Attacked, predictions: str = "predictions") -> Values:
    """Correctness (n,) of all decisions on each image together."""
    table = Rows.of(rows)
    correct: Values = correct_shares(table.lists(predictions), table.label) == 1
    return correct


def share_of(flags: Values) -> str:
    """Share of true flags, in percent."""
    return in_percent(int(flags.sum()) / max(1, len(flags)))
