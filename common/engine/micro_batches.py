"""Micro-batches: many rows through a network in calls of bounded size, recomputed call by call for a gradient."""

import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from types import TracebackType
from typing import Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from common.checks.settings import check_count

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
        if not (isinstance(batch_size, str) and batch_size == "auto"):
            check_count("batch_size", batch_size)
        self.batch_size = batch_size
        self._searches: dict[tuple[object, ...], SizeSearch] = {}

    def size(self, x: Tensor) -> int:
        """Rows per call, for rows like those of x (B,...)."""
        if self.batch_size != "auto":
            return self.batch_size
        return GRADIENT_ROWS if torch.is_grad_enabled() else self._search(x).size

    def calls(self, count: int, x: Tensor) -> Iterator["Call"]:
        """Calls for rows 0 .. count-1 in order; rows are like those of x. A loop over them runs each in its context:

        for call in micro_batches.calls(count, x):
            with call as rows:
                parts.append(function(rows))
        """
        search = self._search(x) if self.batch_size == "auto" and not torch.is_grad_enabled() else None
        start = 0
        while start < count:
            call = Call(slice(start, min(start + self.size(x), count)), x.device, search)
            yield call
            start = call.rows.stop if call.done else start

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


class Call:
    """One call of a network: a context in which ``rows`` are evaluated, timed where a ``search`` is not settled.

    If memory runs out during a search, the context ends without an error and is not ``done``; the next call has fewer
    rows.
    """

    def __init__(self, rows: slice, device: torch.device, search: "SizeSearch | None" = None) -> None:
        self.rows, self.device, self.search, self.done = rows, device, search, False
        self._count = rows.stop - rows.start
        self._timed = search is not None and not search.settled and self._count >= search.size

    def __enter__(self) -> slice:
        self._start = _now(self.device) if self._timed else 0.0
        return self.rows

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if error is None:
            self.done = True
            if self._timed and self.search is not None:
                self.search.observe((_now(self.device) - self._start) / self._count)
            return False
        if self.search is None or self._count == 1 or not isinstance(error, torch.OutOfMemoryError):
            return False
        self.search.back_off(self._count)
        return True


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

    def back_off(self, count: int) -> None:
        """Settle on fewer rows after memory ran out in a call of ``count`` rows."""
        self.size, self.settled = min(count // 2, self._best), True

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
