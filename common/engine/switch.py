"""Switch of the whole process, for settings that reach the threads in which backward passes run."""

from collections.abc import Iterator
from contextlib import contextmanager


class Switch:
    """A setting that is off, but inside `turned_on`; of all threads.

    No ``ContextVar``: CUDA's backward passes, with the steps they recompute, run in threads of their own.
    """

    def __init__(self) -> None:
        self.is_on = False

    @contextmanager
    def turned_on(self) -> Iterator[None]:
        """Context manager: the setting is on, and as before afterwards."""
        before, self.is_on = self.is_on, True
        try:
            yield
        finally:
            self.is_on = before


ALTERED = Switch()
"""On while this rank's networks are run or differentiated in another way than those of the other ranks."""

REPEATABLE = Switch()
"""On where a backward pass has to give the same bits every time, as in an attack: fused attention on CUDA does not."""
