"""Pairs of runs that are compared: every run with one reference, or every two."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from common.report.runs import Run

FEW = 6  # runs: at most so many are compared two by two


@dataclass(frozen=True)
class Pairing:
    """Runs to compare: with the ``reference``, the name of a run, or ``every`` two of them.

    By default every two of at most 6 runs. Of more, which would be many tests of no interest, each with the first.
    """

    reference: str | None = None
    every: bool = False

    def of(self, runs: Sequence[Run]) -> tuple[list[tuple[Run, Run]], list[str]]:
        """The pairs, and a note on them where they are not all. Raises ``ValueError`` for an unknown reference."""
        if self.every or (self.reference is None and len(runs) <= FEW):
            return list(combinations(runs, 2)), []
        known = runs[0] if self.reference is None else self._named(runs, self.reference)
        how = "the first" if self.reference is None else "the reference"
        note = (
            f"Each of {len(runs) - 1} runs is compared with {known.name}, {how}, and p is corrected for these "
            "comparisons. --reference names another run, --pairs all compares every two."
        )
        return [(run, known) for run in runs if run is not known], [note]

    def _named(self, runs: Sequence[Run], reference: str) -> Run:
        """The run of that name, or of the folder at that path."""
        parts = Path(reference).parts
        for name in (reference, "/".join(parts[-2:]), parts[-1] if parts else ""):
            if found := [run for run in runs if run.name == name]:
                return found[0]
        names = ", ".join(run.name for run in runs[:8]) + (", …" if len(runs) > 8 else "")
        raise ValueError(f"the reference must be one of the runs, {names}; got {reference!r}")
