"""The engine of a test: applied while the test runs, with smaller calls where memory runs out."""

from collections.abc import Sequence
from contextlib import ExitStack

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from common.engine.engine import Engine, own_engines_on
from common.engine.memory import Budget, gradient_memory, is_out_of_memory, release_memory
from common.engine.precision import float32_products
from common.numerics.copies import copied
from common.records.notes import current_notes
from common.records.schema import Record
from common.robustness.evaluation.batches import Batch
from common.robustness.evaluation.evaluator import Evaluator
from common.robustness.padding import Padded
from common.robustness.protocols import TwiceDifferentiated


class EngineOfTest:
    """An ``engine`` applied to a classifier from `start` to `stop`; None changes no network.

    Where memory runs out, an evaluation is repeated with half as many rows per call of the classifier, each recomputed
    for its gradient, and without kept graphs. Rows are functions of an image and its noise, so the records are the same
    up to rounding.
    """

    def __init__(self, engine: Engine | None) -> None:
        self.engine = engine
        self.used: Engine | None = None  # with the precision of the device
        self._applied = ExitStack()
        self._processes = 1
        self._memory: Budget = "auto" if engine is None else engine.memory

    @property
    def identity(self) -> dict[str, str]:
        """The engine's part of the fingerprint of the records: its precision, unless that is float32."""
        if self.used is None:
            return {}
        compiled = {"compile": "true"} if self.used.compile else {}  # other kernels, other bits
        return {**compiled, **({} if self.used.precision == "32" else {"precision": self.used.precision})}

    def start(self, classifier: Padded, device: torch.device, processes: int = 1) -> None:
        """Apply the engine on a device; ``processes`` of this test share the machine's memory.

        Without an engine of the test, products are exact float32, and parts with an engine of their own keep it.
        """
        self.stop()
        self._processes = processes
        if self.engine is None:
            self._applied.enter_context(float32_products("32"))
            self._applied.enter_context(own_engines_on(classifier, device))
            return
        self.used = self.engine.on(device)
        self._applied.enter_context(self.used.applied(classifier, twice_differentiated(classifier)))
        classifier.at_once = None if self.used.batch_size == "auto" else self.used.batch_size

    def stop(self) -> None:
        """Give the networks their own forward passes back."""
        self._applied.close()

    def evaluate(self, evaluator: Evaluator, classifier: Padded, batch: Batch) -> Sequence[Record]:
        """The evaluator's rows. Raises ``torch.OutOfMemoryError`` if the smallest calls are too large."""
        while True:
            try:
                with gradient_memory(self._memory, self._processes):
                    return evaluator(classifier, copied(*batch))
            except RuntimeError as error:
                if not is_out_of_memory(error) or not (self._keeps_nothing() or classifier.halve()):
                    raise
            if (notes := current_notes()) is not None:
                notes.again()
            release_memory()
            rank_zero_warn(
                f"memory ran out: {evaluator.name} goes on with {classifier.at_once or 'all'} rows per call, without "
                "kept graphs. Set engine.batch_size and engine.memory to start with that"
            )

    def _keeps_nothing(self) -> bool:
        """Give up kept graphs, the first remedy; False if there are none to give up."""
        had, self._memory = self._memory, 0
        return had != 0


def twice_differentiated(classifier: nn.Module) -> list[nn.Module]:
    """The modules inside that need second derivatives in an attack."""
    parts = [part for part in classifier.modules() if isinstance(part, TwiceDifferentiated)]
    return [module for part in parts for module in part.differentiated_twice]
