"""Many rows through a network: in calls of bounded size, at a chosen precision, recomputed for a gradient."""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import MethodType
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from common.engine.meter import networks
from common.units import check_integer

Precision = Literal["32", "bf16", "16"]
BatchSize = int | Literal["auto"]

RECORDED = 64  # rows of a call of automatic size where a gradient is recorded: what fits shows only on the way back


@dataclass(frozen=True)
class Engine:
    """How networks are run.

    Args:
        precision: "32", or "bf16" and "16" for automatic mixed precision inside the networks. What the denoiser makes
            of their outputs stays in the image's precision, and so do the squared errors and their sums. Logits are
            other numbers then, so it belongs to what identifies a run.
        channels_last: the memory order of images and weights. Up to a tenth faster with large images on a CPU, more on
            GPUs with mixed precision; slower with small ones. Changes rounding alone.
        compile: the networks' forward passes through ``torch.compile``. Hooks on a network, such as those that count
            its evaluations, still run. Takes minutes at the first call, and on a CPU has gained 2 % or less: meant for
            GPUs.

    The embeddings of (sigma, y) are not cached, though they repeat: they are 0.01 to 0.05 % of an evaluation of small
    networks, less of large ones, and to look them up takes longer.

    Raises ``ValueError`` for an unknown precision.
    """

    precision: Precision = "32"
    channels_last: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        if self.precision not in get_args(Precision):
            raise ValueError(f"precision must be one of {', '.join(get_args(Precision))}; got {self.precision!r}")

    def prepare(self, denoiser: nn.Module) -> None:
        """Reorders the weights of the denoiser's networks and compiles them, in place, where asked to."""
        for network in networks(denoiser):
            if self.channels_last:
                network.to(memory_format=torch.channels_last)
            if self.compile and "forward" not in vars(network):  # once, if several classifiers share it
                network.forward = Compiled(network)

    def denoise(self, denoiser: nn.Module, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        """D(x, sigma, label), in x's precision."""
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float16
        with torch.autocast(x.device.type, dtype=dtype, enabled=self.precision != "32"):
            x0: Tensor = denoiser(x, sigma, label)
        return x0.to(x.dtype)


class Compiled:
    """``network.forward`` through ``torch.compile``; a deep copy of the network gets one of its own."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self._forward: Callable[..., Any] = torch.compile(MethodType(type(network).forward, network))

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        return self._forward(*inputs, **named)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Compiled":
        return Compiled(copy.deepcopy(self.network, memo))


class Calls:
    """Rows in calls of ``batch_size``, the last one of what is left.

    Whole calls are all alike, since on a CPU kernels are prepared anew for every number of rows that has not been seen
    lately, which takes a small network as long as 70 rows: see `even`.

    With "auto" the first calls of the work itself find the size: it doubles as long as rows get cheaper, and halves
    where memory runs out, for each device and shape of rows anew. Nothing is evaluated only to be measured. Results
    depend on the size by rounding alone.
    Raises ``ValueError`` for a size below 1.
    """

    def __init__(self, batch_size: BatchSize) -> None:
        if batch_size != "auto":
            check_integer("batch_size", batch_size, 1)
        self.batch_size = batch_size
        self._growths: dict[tuple[object, ...], Growth] = {}

    def size(self, x: Tensor) -> int:
        """Rows in one call, for rows like those of x (B,...)."""
        if self.batch_size != "auto":
            return self.batch_size
        return RECORDED if torch.is_grad_enabled() else self._growth(x).size

    def __call__(self, function: Callable[[slice], Tensor], count: int, x: Tensor) -> Tensor:
        """``function`` of rows 0 .. count-1 in slices, concatenated; rows are like those of x."""
        growth = self._growth(x) if self.batch_size == "auto" and not torch.is_grad_enabled() else None
        parts: list[Tensor] = []
        start = 0
        while start < count:
            rows = slice(start, min(start + self.size(x), count))
            part = function(rows) if growth is None else growth.run(function, rows, x.device)
            if part is not None:
                parts.append(part)
                start = rows.stop
        return torch.cat(parts)

    def even(self, count: int, x: Tensor) -> int:
        """``count``, on a CPU with the rows of the last call rounded up to one of eight numbers per octave.

        Where that number changes all the time, up to an eighth more rows in this call are cheaper than new kernels.
        """
        if x.device.type != "cpu":
            return count
        size = self.size(x)
        rest = count % size
        step = 1 << max(0, rest.bit_length() - 4)
        return count - rest + min(size, -(-rest // step) * step)

    def _growth(self, x: Tensor) -> "Growth":
        return self._growths.setdefault((x.device, x.dtype, x.shape[1:]), Growth())


class Growth:
    """``size``, a number of rows that doubles as long as each row gets cheaper.

    Sizes are tried ``trials`` times each, the fastest counts, as the first call prepares kernels. A size must take
    ``gain`` of the best one's time per row or less to be the new best; after two in a row that do not, or at
    ``largest``, the best one is ``settled`` on.
    """

    def __init__(self, first: int = 32, largest: int = 2**14, trials: int = 3, gain: float = 0.95) -> None:
        self.size, self.settled = first, False
        self.largest, self.trials, self.gain = largest, trials, gain
        self._best, self._cost, self._failed = first, math.inf, 0
        self._seconds: list[float] = []

    def run(self, function: Callable[[slice], Tensor], rows: slice, device: torch.device) -> Tensor | None:
        """``function(rows)``, timed while growing. None if memory ran out: ``size`` is smaller then."""
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
        """What a row took in a call of ``size`` rows."""
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


def recomputed(function: Callable[..., Tensor], several: bool, training: bool) -> Callable[..., Tensor]:
    """``function`` itself, or one of ``several`` calls whose inner values the backward pass computes again.

    Memory is then bounded by one call. ``training`` says that dropout must be told to repeat itself.
    """
    if not (several and torch.is_grad_enabled()):
        return function
    return partial(checkpoint, function, use_reentrant=False, preserve_rng_state=training)


def _now(device: torch.device) -> float:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()
