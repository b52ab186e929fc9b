"""Denoiser under an engine: one call, or many rows in micro-batches."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from common.diffusion.denoisers import Denoiser
from common.engine.engine import Engine
from common.engine.micro_batches import MicroBatches, recomputed


@dataclass(frozen=True)
class BatchedDenoiser:
    """D(x, sigma, label) at the engine's precision; model frame, as a `Denoiser`."""

    denoiser: Denoiser
    engine: Engine
    micro_batches: MicroBatches

    def __call__(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        """D(x, sigma, label) (R,C,H,W) in one call."""
        return self.engine.denoise(self.denoiser, x, sigma, label)

    def at_level(self, x: Tensor, sigma: float, label: Tensor | None = None) -> Tensor:
        """D(x, sigma, label) (R,C,H,W) at one noise level, in micro-batches; several are recomputed for a gradient."""
        function: Callable[[slice], Tensor] = partial(self._rows, x, x.new_tensor(sigma), label)
        if len(x) > self.micro_batches.size(x):
            function = recomputed(function, self.denoiser.training)
        return self.micro_batches.map(function, len(x), x)

    def _rows(self, x: Tensor, sigma: Tensor, label: Tensor | None, rows: slice) -> Tensor:
        x = x[rows]
        return self(x, sigma.expand(len(x)), None if label is None else label[rows])
