"""Engine: precision, memory layout, compilation, call size and memory of networks."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor, nn

from common.checks.images import check_shape
from common.checks.settings import check_flag, check_one_of
from common.engine.compiled import Compiled
from common.engine.gradient_scale import GradientScale
from common.engine.memory import Budget, check_budget
from common.engine.micro_batches import BatchSize, MicroBatches, recomputed
from common.engine.networks import networks
from common.engine.precision import HALF, Precision, float32_products, is_exact, resolved
from common.engine.running import Running
from common.numerics.copies import copied


@dataclass(frozen=True)
class Engine:
    """Precision, memory layout, compilation, call size and memory of networks: of a test, or of one NDC.

    A test applies its engine to all networks of the defence: denoiser, guidance and classifier, in forward and backward
    passes, of evaluations, attacks and certification. States, losses, noise, attacks and certificates stay in float32.

    Args:
        precision: "32"; "bf16" and "16", automatic mixed precision inside the networks, whose outputs are cast back to
            the image's precision (in "16" gradients are scaled inside, `GradientScale`); "tf32" on CUDA, elsewhere
            "32"; "auto", which is "bf16" where the machine has units for it and "32" elsewhere. Logits change, so the
            precision is part of a run's fingerprint.
        channels_last: the memory order of images and weights. Up to a tenth faster with large images on a CPU, more on
            GPUs with mixed precision; slower with small ones. Changes rounding alone.
        compile: run the networks' forward passes through ``torch.compile`` where that is faster (`Compiled`). Networks
            that are differentiated twice, as AGDM's guidance is in an attack, stay eager. Takes minutes at the first
            call and gains little on a CPU: meant for GPUs.
        batch_size: rows per call of a network, or "auto". In a test "auto" takes all rows, and fewer where memory runs
            out; NDC searches for the fastest size (`MicroBatches`). Classifiers that share an engine share its sizes.
        memory: bytes for the graphs that a purification keeps for its gradient instead of recomputing its steps
            (``Checkpoint``), or "auto", a share of what is free. Of a test alone; changes the speed alone.

    Embeddings of (sigma, y) are not cached: they are at most 0.05 % of an evaluation, and a look-up takes longer.

    Raises ``ValueError`` for an unknown precision, a batch size below 1 and a negative memory.
    """

    not_identifying: ClassVar[frozenset[str]] = frozenset({"channels_last", "compile", "batch_size", "memory"})

    precision: Precision = "32"
    channels_last: bool = False
    compile: bool = False
    batch_size: BatchSize = 512
    memory: Budget = "auto"

    def __post_init__(self) -> None:
        check_one_of("precision", self.precision, get_args(Precision))
        check_flag("channels_last", self.channels_last)
        check_flag("compile", self.compile)
        check_budget("memory", self.memory)
        MicroBatches(self.batch_size)

    def on(self, device: torch.device) -> "Engine":
        """The engine with the precision that "auto" and "tf32" are on a device. Warns of an emulated bfloat16."""
        return replace(self, precision=resolved(self.precision, device))

    @contextmanager
    def applied(self, module: nn.Module, twice: Sequence[nn.Module] = ()) -> Iterator[None]:
        """Context manager: the networks inside ``module`` run under this engine, whose precision is resolved (`on`).

        Parts with an ``engine`` of their own get this one. The networks of the modules ``twice``, which are
        differentiated twice, are not compiled, and computed in float32 where the others are in float16, whose gradients
        need a scale (`GradientScale`). Everything is as before afterwards.
        """
        scripted = [part for part in networks(module) if isinstance(part, torch.jit.ScriptModule)]
        if scripted and (self.precision in HALF or self.channels_last or self.compile):
            raise ValueError(
                "an engine runs networks of Python code; got a TorchScript module, whose forward pass cannot be "
                "replaced. Give the network itself, or leave out precision, channels_last and compile"
            )
        eager = {id(network) for part in twice for network in networks(part)}
        with ExitStack() as stack:
            stack.enter_context(float32_products(self.precision))
            for part, _ in own_engines(module):
                stack.enter_context(_replaced(part, "engine", replace(self, channels_last=False, compile=False)))
            for network in networks(module):
                compiled = self.compile and id(network) not in eager
                precision = "32" if self.precision == "16" and id(network) in eager else self.precision
                if precision in HALF or self.channels_last or compiled:
                    stack.enter_context(self._run(network, precision, compiled))
            yield

    @contextmanager
    def _run(self, network: nn.Module, precision: Precision, compiled: bool) -> Iterator[None]:
        if self.channels_last:
            network.to(memory_format=torch.channels_last)
        running = Running(network, precision, self.channels_last, compiled)
        try:
            with _replaced(network, "forward", running):
                yield
        finally:
            if self.channels_last:
                network.to(memory_format=torch.contiguous_format)

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
        several, level = len(x) > self.micro_batches.size(x), x.new_full((), sigma)
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
        half = HALF.get(resolved(self.precision, x.device) if self.precision == "auto" else self.precision)
        half = None if is_exact() else half
        scale = GradientScale.of(half, x, denoiser, (x, sigma))
        entered = (x, sigma) if scale is None else (scale.enter(x), scale.enter(sigma))
        with torch.autocast(x.device.type, dtype=half or torch.bfloat16, enabled=half is not None):
            x0 = check_shape("the denoiser", denoiser(*copied(*entered, label)), x).to(x.dtype)
        left: Tensor = x0 if scale is None else scale.leave(x0)
        return left


def own_engines(module: nn.Module) -> list[tuple[nn.Module, Engine]]:
    """The parts inside ``module`` with an engine of their own, in order."""
    parts = [(part, getattr(part, "engine", None)) for part in module.modules()]
    return [(part, engine) for part, engine in parts if isinstance(engine, Engine)]


@contextmanager
def own_engines_at(module: nn.Module, precisions: Sequence[Precision]) -> Iterator[None]:
    """Context manager: the `own_engines` inside ``module`` have these precisions."""
    with ExitStack() as stack:
        for (part, own), precision in zip(own_engines(module), precisions, strict=True):
            if own.precision != precision:
                stack.enter_context(_replaced(part, "engine", replace(own, precision=precision)))
        yield


@contextmanager
def _replaced(part: Any, name: str, value: Any) -> Iterator[None]:
    """Context manager: an attribute of the part itself, which afterwards has the one from before, or none."""
    own = vars(part)
    had, before = name in own, own.get(name)
    setattr(part, name, value)
    try:
        yield
    finally:
        if had:
            setattr(part, name, before)
        else:
            delattr(part, name)
