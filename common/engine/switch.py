"""Switch of the whole process, for settings that reach the threads in which backward passes run."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


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
            if self._inside == 1:
                self._first()
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if not self._inside:
                    self._last()

    def _first(self) -> None:
        """Called when it is turned on."""

    def _last(self) -> None:
        """Called when it is off again."""


class Repeatable(Switch):
    """A switch that also lets cuDNN choose deterministic kernels, without timing them, while it is on."""

    def _first(self) -> None:
        cudnn: Any = torch.backends.cudnn
        self._before = cudnn.deterministic, cudnn.benchmark
        cudnn.deterministic, cudnn.benchmark = True, False

    def _last(self) -> None:
        cudnn: Any = torch.backends.cudnn
        cudnn.deterministic, cudnn.benchmark = self._before


ALTERED = Switch()
"""On while this rank's networks are run or differentiated in another way than those of the other ranks."""

REPEATABLE = Repeatable()
"""On where a backward pass has to give the same bits every time, as in an attack: fused attention and cuDNN's
fastest convolutions do not."""
