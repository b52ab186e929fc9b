"""Result of a check of a defence, shared by the checks of purifiers and of classifiers."""

import math
from dataclasses import asdict, dataclass
from typing import Any

DECLARED_GRADIENT = "declared gradient"  # name of the finding that measures a declared approximation
ATTACK_GRADIENT = "gradient of "  # start of the names of findings on the gradient of an attack, by cosine
DEFENCE = "the defence"  # the end of that name for the defence's own gradient
FAITHFUL = 0.9  # cosine with the exact gradient from which on an approximate one counts as its equal
ROUNDING = 1e-5  # relative, of a value computed twice: float32 rounds at 6e-8, a step of a grid moves a level by 1e-3
SLOPE = 1e-3  # relative, float64: central differences err by 1e-7, a wrong gradient by per cents
LOOSE = 5e-2  # the same in float32
LARGEST = 1e30  # stored for an error that is not finite: JSON has no infinity


@dataclass(frozen=True)
class Finding:
    """Result of a check: its ``name``, ``passed``, the measured ``error`` and a ``sentence`` that interprets it.

    ``decided=False`` marks an inconclusive check or a declared approximation; it counts as passed, and the sentence
    states why it is inconclusive.
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
        """Passed if ``error <= tolerance``, with the sentence ``good`` or ``bad``; NaN fails."""
        passed = error <= tolerance
        return cls(name, passed, error, good if passed else bad)

    @classmethod
    def undecided(cls, name: str, sentence: str, error: float = 0.0) -> "Finding":
        """Inconclusive result."""
        return cls(name, True, error, sentence, decided=False)

    def values(self) -> dict[str, Any]:
        """The fields as JSON."""
        return asdict(self)
