"""Micro-batches: many rows through a network in calls of bounded size, recomputed call by call for a gradient."""

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from common.units import check_integer

BatchSize = int | Literal["auto"]

GRADIENT_ROWS = 64
"""Rows per call of automatic size while a gradient is recorded: its memory shows only in the backward pass."""


class MicroBatches:
    """Evaluation of many rows in calls of ``batch_size`` rows; the last call takes the rest.

    On a CPU, kernels are prepared anew for each number of rows that was not used lately, which takes a small network as
    long as 70 rows; hence equal calls, and `rounded` for the rest.

    With "auto" the size is tuned at run time, for each device and shape of rows: it doubles as long as rows
    get cheaper (`SizeSearch`) and halves where memory runs out. Results depend on the size by rounding alone.
    Raises ``ValueError`` for a size below 1.
    """

    def __init__(self, batch_size: BatchSize) -> None:
        if batch_size != "auto":
            check_integer("batch_size", batch_size, 1)
        self.batch_size = batch_size
        self._searches: dict[tuple[object, ...], SizeSearch] = {}

    def size(self, x: Tensor) -> int:
        """Rows per call, for rows like those of x (B,...)."""
        if self.batch_size != "auto":
            return self.batch_size
        return GRADIENT_ROWS if torch.is_grad_enabled() else self._search(x).size

    def map(self, function: Callable[[slice], Tensor], count: int, x: Tensor) -> Tensor:
        """``function`` of rows 0 .. count-1 in slices, concatenated; rows are like those of x."""
        search = self._search(x) if self.batch_size == "auto" and not torch.is_grad_enabled() else None
        parts: list[Tensor] = []
        start = 0
        while start < count:
            rows = slice(start, min(start + self.size(x), count))
            part = function(rows) if search is None else search.run(function, rows, x.device)
            if part is not None:
                parts.append(part)
                start = rows.stop
        return torch.cat(parts)

    def rounded(self, count: int, x: Tensor) -> int:
        """``count``, on a CPU with the rows of the last call rounded up to one of eight numbers per octave.

        Where the count changes all the time, up to an eighth more rows in the last call are cheaper than new kernels.
        """
        if x.device.type != "cpu":
            return count
        size = self.size(x)
        rest = count % size
        step = 1 << max(0, rest.bit_length() - 4)
        return count - rest + min(size, -(-rest // step) * step)

    def _search(self, x: Tensor) -> "SizeSearch":
        return self._searches.setdefault((x.device, x.dtype, x.shape[1:]), SizeSearch())


class SizeSearch:
    """Search for a call size: ``size`` doubles as long as each row gets cheaper.

    Each size is tried ``trials`` times and the fastest counts, since the first call prepares kernels. A size is the new
    best if its time per row is ``gain`` times the best one's or less. After two sizes in a row that are not, or at
    ``largest``, the search is ``settled`` on the best.
    """

    def __init__(self, first: int = 32, largest: int = 2**14, trials: int = 3, gain: float = 0.95) -> None:
        self.size, self.settled = first, False
        self.largest, self.trials, self.gain = largest, trials, gain
        self._best, self._cost, self._failed = first, math.inf, 0
        self._seconds: list[float] = []

    def run(self, function: Callable[[slice], Tensor], rows: slice, device: torch.device) -> Tensor | None:
        """``function(rows)``, timed until settled. None if memory ran out; ``size`` is smaller then."""
        count = rows.stop - rows.start
        try:
            if self.settled or count < self.size:
                return function(rows)
            start = _now(device)
            result = function(rows)
            self.observe((_now(device) - start) / count)
            return result
        except torch.OutOfMemoryError:
            if count == 1:
                raise
        self.size, self.settled = min(count // 2, self._best), True
        return None

    def observe(self, seconds: float) -> None:
        """Record the time per row of a call of ``size`` rows."""
        self._seconds.append(seconds)
        if len(self._seconds) < self.trials:
            return
        cost, self._seconds = min(self._seconds), []
        if cost <= self.gain * self._cost:
            self._best, self._cost, self._failed = self.size, cost, 0
        else:
            self._failed += 1
        self.settled = self._failed == 2 or 2 * self.size > self.largest
        self.size = self._best if self.settled else 2 * self.size


def recomputed(function: Callable[..., Tensor], training: bool) -> Callable[..., Tensor]:
    """``function``, recomputed in the backward pass if a gradient is recorded: memory is bounded by one call.

    ``training``: restore the global random state as well, so that dropout repeats its masks.
    """
    if not torch.is_grad_enabled():
        return function
    return partial(checkpoint, function, use_reentrant=False, preserve_rng_state=training)


def _now(device: torch.device) -> float:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()
