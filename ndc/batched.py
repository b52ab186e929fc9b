"""Denoiser under an engine: one call, or many rows in micro-batches."""

from dataclasses import dataclass

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
        """D(x, sigma, label) (R,C,H,W) at one noise level, in micro-batches; recomputed if they are several."""
        rows = _Rows(self, x, x.new_tensor(sigma), label)
        several = len(x) > self.micro_batches.size(x)
        function = recomputed(rows.denoised, self.denoiser.training) if several else rows.denoised
        return self.micro_batches.map(function, len(x), x)


@dataclass(frozen=True)
class _Rows:
    """Rows of a denoiser at one noise level."""

    denoise: BatchedDenoiser
    x: Tensor
    sigma: Tensor
    label: Tensor | None

    def denoised(self, rows: slice) -> Tensor:
        x = self.x[rows]
        return self.denoise(x, self.sigma.expand(len(x)), None if self.label is None else self.label[rows])
