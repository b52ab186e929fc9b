"""The engine of a test: applied while the test runs, with smaller calls where memory runs out."""

import gc
from collections.abc import Sequence
from contextlib import ExitStack

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from common.engine.engine import Engine
from common.engine.memory import Budget, gradient_memory
from common.numerics.copies import copied
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
        self._applied = ExitStack()
        self._memory: Budget = "auto" if engine is None else engine.memory

    @property
    def identity(self) -> dict[str, str]:
        """The engine's part of the fingerprint of the records: its precision, unless that is float32."""
        if self.engine is None or self.engine.precision == "32":
            return {}
        return {"precision": self.engine.precision}

    def start(self, classifier: Padded, device: torch.device) -> None:
        """Apply the engine; its precision is from now on that of the device."""
        self.stop()
        if self.engine is None:
            return
        self.engine = self.engine.on(device)
        self._applied.enter_context(self.engine.applied(classifier, twice_differentiated(classifier)))
        classifier.at_once = None if self.engine.batch_size == "auto" else self.engine.batch_size

    def stop(self) -> None:
        """Give the networks their own forward passes back."""
        self._applied.close()

    def evaluate(self, evaluator: Evaluator, classifier: Padded, batch: Batch) -> Sequence[Record]:
        """The evaluator's rows. Raises ``torch.OutOfMemoryError`` if the smallest calls are too large."""
        while True:
            try:
                with gradient_memory(self._memory):
                    return evaluator(classifier, copied(*batch))
            except RuntimeError as error:
                if not is_out_of_memory(error) or not classifier.halve():
                    raise
            self._memory = 0
            gc.collect()  # the traceback held the graph
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            rank_zero_warn(
                f"memory ran out: {evaluator.name} goes on with {classifier.at_once} rows per call. "
                f"Set engine.batch_size to {classifier.at_once} to start with it"
            )


def is_out_of_memory(error: RuntimeError) -> bool:
    """True for an error of an allocation on a GPU or a CPU."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def twice_differentiated(classifier: nn.Module) -> list[nn.Module]:
    """The modules inside that need second derivatives in an attack."""
    parts = [part for part in classifier.modules() if isinstance(part, TwiceDifferentiated)]
    return [module for part in parts for module in part.differentiated_twice]
