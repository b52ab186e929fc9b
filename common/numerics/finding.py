"""What a test of a defence found: common to those who test purifiers and those who test classifiers."""

import math
from dataclasses import asdict, dataclass
from typing import Any

DECLARED_GRADIENT = "declared gradient"  # name of the finding that measures a gradient declared approximate
LARGEST = 1e30  # an error that is not finite is stored as this: JSON knows no infinity


@dataclass(frozen=True)
class Finding:
    """``name`` of the test, whether it ``passed``, the ``error`` it measured and a ``sentence`` on what that means.

    ``decided=False`` says that the test could not tell, or that the error is one which was declared; it then counts as
    passed, and the sentence says why it proves nothing.
    """

    name: str
    passed: bool
    error: float
    sentence: str
    decided: bool = True

    def __post_init__(self) -> None:
        if not math.isfinite(self.error):
            object.__setattr__(self, "error", LARGEST)

    @classmethod
    def of(cls, name: str, error: float, tolerance: float, good: str, bad: str) -> "Finding":
        """Passed if ``error <= tolerance``; a NaN does not pass."""
        passed = error <= tolerance
        return cls(name, passed, error, good if passed else bad)

    @classmethod
    def undecided(cls, name: str, sentence: str, error: float = 0.0) -> "Finding":
        """One that proves nothing."""
        return cls(name, True, error, sentence, decided=False)

    def values(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)
