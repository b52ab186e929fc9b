"""Engine: precision, memory layout, compilation and call size of networks."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, get_args

import torch
from torch import Tensor, nn

from common.checks.images import check_shape
from common.checks.settings import check_flag, check_one_of
from common.engine.compiled import Compiled
from common.engine.micro_batches import BatchSize, MicroBatches, recomputed
from common.engine.networks import networks
from common.engine.precision import Precision
from common.numerics.copies import copied


@dataclass(frozen=True)
class Engine:
    """Precision, memory layout, compilation and call size of networks.

    Args:
        precision: "32", or "bf16" and "16" for automatic mixed precision inside the networks. Their outputs are cast
            back to the image's precision; squared errors and sums are computed in it. Logits change, so the precision
            is part of a run's fingerprint.
        channels_last: the memory order of images and weights. Up to a tenth faster with large images on a CPU, more on
            GPUs with mixed precision; slower with small ones. Changes rounding alone.
        compile: run the networks' forward passes through ``torch.compile``. Hooks on a network, such as a `Meter`'s,
            still run. Takes minutes at the first call and gains 2 % or less on a CPU: meant for GPUs.
        batch_size: rows per call of a network, or "auto" (`MicroBatches`). Work of several calls is recomputed call by
            call in the backward pass, so that one call bounds the memory. Classifiers that share an engine share its
            automatic sizes.

    Embeddings of (sigma, y) are not cached: they are at most 0.05 % of an evaluation, and a look-up takes longer.

    Raises ``ValueError`` for an unknown precision and a batch size below 1.
    """

    not_identifying: ClassVar[frozenset[str]] = frozenset({"channels_last", "compile", "batch_size"})

    precision: Precision = "32"
    channels_last: bool = False
    compile: bool = False
    batch_size: BatchSize = 512

    def __post_init__(self) -> None:
        check_one_of("precision", self.precision, get_args(Precision))
        check_flag("channels_last", self.channels_last)
        check_flag("compile", self.compile)
        MicroBatches(self.batch_size)

    @property
    def micro_batches(self) -> MicroBatches:
        """Division of rows into calls."""
        return self._micro_batches

    @cached_property
    def _micro_batches(self) -> MicroBatches:  # private names are no part of a fingerprint
        return MicroBatches(self.batch_size)

    def prepare(self, denoiser: nn.Module) -> None:
        """Reorder the weights of the denoiser's networks and compile them, in place, as configured."""
        for network in networks(denoiser):
            if self.channels_last:
                network.to(memory_format=torch.channels_last)
            if self.compile and "forward" not in vars(network):  # once, if several classifiers share it
                network.forward = Compiled(network)

    def denoise_all(self, denoiser: nn.Module, x: Tensor, sigma: float, label: Tensor | None = None) -> Tensor:
        """D(x, sigma, label) (R,C,H,W) at one noise level, in micro-batches; several are recomputed for a gradient."""
        if not len(x):
            return x.clone()
        several, level = len(x) > self.micro_batches.size(x), x.new_tensor(sigma)
        denoise = recomputed(self.denoise, denoiser.training) if several else self.denoise
        parts = []
        for call in self.micro_batches.calls(len(x), x):
            with call as rows:
                part = x[rows]
                parts.append(denoise(denoiser, part, level.expand(len(part)), None if label is None else label[rows]))
        return torch.cat(parts)

    def denoise(self, denoiser: nn.Module, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        """D(x, sigma, label) in one call, in x's precision."""
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float16
        with torch.autocast(x.device.type, dtype=dtype, enabled=self.precision != "32"):
            x0 = check_shape("the denoiser", denoiser(*copied(x, sigma, label)), x)
        return x0.to(x.dtype)
