"""Progress of a test over all ranks: images that have their rows, and the time that the others will take."""

import time
from collections.abc import Collection, Iterable

from common.processes.ranks import CURRENT


class Remaining:
    """Number of images that all ranks of a test have done together, of ``total`` that this start has to do.

    ``wanted``: their indices; None counts every image. ``session`` names the count among those of other tests.
    """

    def __init__(self, total: int, wanted: Collection[int] | None = None, session: str = "") -> None:
        self.total, self._wanted = total, wanted
        self._own, self._begun = 0, time.monotonic()
        self._name, self._counters = f"done {session}", CURRENT.counters if session else None

    def add(self, indices: Iterable[int]) -> None:
        """Count the images of a batch."""
        done = sum(self._wanted is None or index in self._wanted for index in indices)
        self._own = self._own + done if self._counters is None else self._counters.add(self._name, done)

    @property
    def done(self) -> int:
        """Images that all ranks have done, at most ``total``."""
        known = self._own if self._counters is None else max(self._own, self._counters.read(self._name))
        return min(known, self.total)

    @property
    def text(self) -> str:
        """``12 of 48 images, 3 min left``, at the mean speed so far; without a time before the first image."""
        done = self.done
        counted = f"{done} of {self.total} images"
        if not 0 < done < self.total:
            return counted
        return f"{counted}, {duration((time.monotonic() - self._begun) / done * (self.total - done))} left"


def duration(seconds: float) -> str:
    """``40 s``, ``3 min``, ``2 h 05 min`` or ``3 d 4 h``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{round(whole / 60)} min"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"
