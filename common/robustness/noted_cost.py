"""Cost of results that are noted within an image, so that a resumed image costs what an uninterrupted one does."""

import math
from collections.abc import Sequence

from common.engine.meter import peak_bytes, resume_cost, spent


class NotedCost:
    """Cost of the noted results of each of so many ``images``, all processes together.

    A process that is killed after its last note repeats what it did since. This counts once.
    """

    def __init__(self, images: int) -> None:
        self._costs = [(0.0, 0.0, 0)] * images
        self._before = spent()

    def divide(self, weights: Sequence[float]) -> None:
        """Divide what was spent since the last call among the images, in proportion to ``weights`` (B,)."""
        now, total = spent(), sum(weights)
        evaluations, seconds = (a - b for a, b in zip(now, self._before, strict=True))
        self._before, peak = now, peak_bytes()
        for row, weight in enumerate(weights):
            if weight > 0:
                rows, before, most = self._costs[row]
                share = weight / total
                self._costs[row] = (rows + evaluations * share, before + seconds * share, max(most, peak))

    def resume(self, row: int, noted: object) -> bool:
        """Count the ``noted`` cost of an image, whose results are taken over; False if it is none."""
        if not isinstance(noted, list) or len(noted) != 3 or not all(map(_is_amount, noted)):
            return False
        evaluations, seconds, peak = noted
        self._costs[row] = (float(evaluations), float(seconds), int(peak))
        resume_cost(*self._costs[row])
        return True

    def note(self, row: int) -> list[float]:
        """The cost of an image, for its notes."""
        return [*self._costs[row]]


def _is_amount(value: object) -> bool:
    return type(value) in (int, float) and 0 <= value < math.inf  # type: ignore[operator]
