"""The engine of a test: applied while the test runs, with smaller calls where memory runs out."""

import os
import socket
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import count
from typing import Any, Protocol, TypeVar

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from common.engine.compiled import Choice
from common.engine.engine import Engine, own_engines, own_engines_at
from common.engine.memory import Budget, gradient_memory, is_out_of_memory, release_memory
from common.engine.precision import Precision, float32_products, shortcoming
from common.numerics.copies import copied
from common.records.notes import current_notes
from common.records.schema import Record
from common.robustness.evaluation.batches import Batch
from common.robustness.evaluation.evaluator import Evaluator
from common.robustness.padding import Padded
from common.robustness.protocols import TwiceDifferentiated

Broadcast = Callable[[Any], Any]
Result = TypeVar("Result")


class Trial(Protocol):
    """Evaluation of a batch, of which `EngineOfTest.evaluate` needs no more than this."""

    @property
    def name(self) -> str:
        """For messages."""

    def __call__(self, classifier: Padded, batch: Batch) -> Sequence[Record]:
        """Rows of the batch."""


class EngineOfTest:
    """An ``engine`` applied to a classifier from `start` to `stop`; None changes no network.

    Where memory runs out, an evaluation is repeated with half as many rows per call of the classifier, each recomputed
    for its gradient, and without kept graphs. Rows are functions of an image and its noise, so the records are the same
    up to rounding.
    """

    def __init__(self, engine: Engine | None) -> None:
        self.engine = engine
        self.used: Engine | None = None  # with the precision of the device
        self.compiled: dict[str, Choice] = {}  # by the place of the network
        self._applied = ExitStack()
        self._processes = 1
        self._memory: Budget = "auto" if engine is None else engine.memory

    @property
    def identity(self) -> dict[str, str]:
        """The engine's part of the fingerprint of the records: its precision, unless that is float32, and the networks
        that run compiled, in which modes: other kernels, other bits.
        """
        modes = {
            place: ", ".join(sorted(mode for mode, taken in choice.items() if taken))
            for place, choice in sorted(self.compiled.items())
        }
        named = "; ".join(f"{place} ({taken})" for place, taken in modes.items() if taken)
        compiled = {"compile": named} if named else {}
        exact = self.used is None or self.used.precision == "32"
        return {**compiled, **({} if self.used is None or exact else {"precision": self.used.precision})}

    def start(
        self, classifier: Padded, device: torch.device, processes: int = 1, broadcast: Broadcast = lambda one: one
    ) -> None:
        """Apply the engine on a device; ``processes`` of this test share the machine's memory.

        All ranks call it. They take the precisions that ``broadcast`` sends from rank 0, and warn of one for which
        their device has no units. Without an engine of the test, products are exact float32, and parts with an engine
        of their own keep it.
        """
        self.stop()
        self._processes = processes
        if self.engine is None:
            own = [engine.on(device).precision for _, engine in own_engines(classifier)]
            precisions = self._of_rank_0(own, device, broadcast)
            self._applied.enter_context(float32_products("32"))
            self._applied.enter_context(own_engines_at(classifier, precisions))
            return
        (precision,) = self._of_rank_0([self.engine.on(device).precision], device, broadcast)
        self.used = replace(self.engine, precision=precision)
        self._applied.enter_context(self.used.applied(classifier, twice_differentiated(classifier)))
        classifier.at_once = None if self.used.batch_size == "auto" else self.used.batch_size

    def _of_rank_0(self, own: list[Precision], device: torch.device, broadcast: Broadcast) -> list[Precision]:
        taken: list[Precision] = broadcast(own)
        for precision in {one for one, mine in zip(taken, own, strict=True) if one != mine}:
            if lacks := shortcoming(precision, device):
                here = f"process {os.getpid()} on {socket.gethostname()}"
                warnings.warn(f"{here} takes the precision of rank 0, {precision}: {lacks}", stacklevel=3)
        return taken

    def stop(self) -> None:
        """Give the networks their own forward passes back."""
        self._applied.close()

    def evaluate(self, evaluator: Evaluator | Trial, classifier: Padded, batch: Batch) -> Sequence[Record]:
        """The evaluator's rows. Raises ``torch.OutOfMemoryError`` if the smallest calls are too large."""
        turns = count()

        def rows() -> Sequence[Record]:
            if next(turns) and (notes := current_notes()) is not None:
                notes.again()
            return evaluator(classifier, copied(*batch))

        return self.fitted(rows, evaluator.name, classifier)

    def fitted(self, act: Callable[[], Result], name: str, classifier: Padded) -> Result:
        """The result of ``act``, which is repeated where memory runs out. Raises as `evaluate`."""
        while True:
            try:
                with gradient_memory(self._memory, self._processes):
                    return act()
            except RuntimeError as error:
                if not is_out_of_memory(error) or not (self._keeps_nothing() or classifier.halve()):
                    raise
            release_memory()
            rank_zero_warn(
                f"memory ran out: {name} goes on with {classifier.at_once or 'all'} rows per call, without "
                "kept graphs. Set engine.batch_size and engine.memory to start with that"
            )

    @contextmanager
    def unchanged(self, classifier: Padded) -> Iterator[None]:
        """Context manager: what was given up inside, where memory ran out, is taken up again."""
        memory = self._memory
        try:
            with classifier.unchanged():
                yield
        finally:
            self._memory = memory

    def _keeps_nothing(self) -> bool:
        """Give up kept graphs, the first remedy; False if there are none to give up."""
        had, self._memory = self._memory, 0
        return had != 0


def twice_differentiated(classifier: nn.Module) -> list[nn.Module]:
    """The modules inside that need second derivatives in an attack."""
    parts = [part for part in classifier.modules() if isinstance(part, TwiceDifferentiated)]
    return [module for part in parts for module in part.differentiated_twice]
