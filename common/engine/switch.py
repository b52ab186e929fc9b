"""Switch of the whole process, for settings that reach the threads in which backward passes run."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Switch:
    """A setting that is off, but inside `turned_on`; of all threads, and on until the last one has left.

    No ``ContextVar``: CUDA's backward passes, with the steps they recompute, run in threads of their own.
    """

    def __init__(self) -> None:
        self._inside = 0
        self._lock = threading.Lock()

    @property
    def is_on(self) -> bool:
        return self._inside > 0

    @contextmanager
    def turned_on(self) -> Iterator[None]:
        """Context manager: the setting is on; afterwards it is off unless it is turned on elsewhere."""
        with self._lock:
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1


ALTERED = Switch()
"""On while this rank's networks are run or differentiated in another way than those of the other ranks."""

REPEATABLE = Switch()
"""On where a backward pass has to give the same bits every time, as in an attack: fused attention on CUDA does not."""
