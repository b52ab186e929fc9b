"""Evaluator: the base class of everything that turns a classifier and a batch into records."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from common.checks.settings import check_count, check_optional, check_part, check_seed, check_sequence, check_text
from common.engine.meter import Meter
from common.records.schema import Cost, Record, Role, Source
from common.robustness.classifiers import Classifier
from common.robustness.evaluation.batches import Batch


@dataclass(frozen=True, kw_only=True)
class Evaluator(ABC):
    """``evaluator(classifier, (image, label, index))`` -> one record per image, in the batch's order.

    ``image`` (B,C,H,W) float32 in [0,1], ``label`` (B,) int64 in 0..K-1, ``index`` (B,) int64, distinct: the image's
    index in the data set, which identifies its record and its noise. Anything else raises ``ValueError``, as does
    inference mode. The classifier is evaluated as deployed: evaluation mode, float32, no parameter gradients.

    Args:
        name: of the evaluation in records, tables and figures.
        seed: of all random numbers; of several, `suite` makes one evaluator each.
        limit: evaluate only the test's first ``limit`` images; None for all.
        role: a result of the defence, or a comparison for the masking checks (`masking_suite`, `Baseline`).
    """

    not_identifying: ClassVar[frozenset[str]] = frozenset({"limit"})

    name: str
    seed: int | Sequence[int] = 0
    limit: int | None = None
    role: Role = Role.RESULT

    def __post_init__(self) -> None:
        check_text("name", self.name, note="It is the key of an evaluator's records")
        seeds = self.seed if isinstance(self.seed, Sequence) else [self.seed]
        seeds = check_sequence("seed, one or several,", seeds, check_seed)
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"seeds must be distinct, else their draws are the same ones; got {seeds}")
        check_optional(check_count, "limit", self.limit, note="None takes all images")
        check_part("role", self.role, Role)

    @abstractmethod
    def __call__(self, classifier: Classifier, batch: Batch) -> Sequence[Record]:
        """Records of a batch."""

    @property
    def uses_gradients(self) -> bool:
        """True of white-box attacks, whose gradients a test checks first."""
        return False

    @property
    def seeds(self) -> list[int]:
        """The seeds, also of a single one."""
        return [self.seed] if isinstance(self.seed, int) else list(self.seed)

    @property
    def single_seed(self) -> int:
        """The seed. Raises ``ValueError`` while there are several."""
        if not isinstance(self.seed, int):
            raise ValueError(f"{self.name!r} has several seeds: `suite` makes an evaluator of each")
        return self.seed

    @property
    def source(self) -> Source:
        """Identity of its records within a run."""
        return Source(self.name, self.single_seed, self.role)

    def record_fields(self, label: Tensor, index: Tensor, meter: Meter) -> list[dict[str, Any]]:
        """Fields that every record of a batch has: evaluation, image and mean cost."""
        cost = Cost(**meter.cost(len(index)))
        common = {"evaluator": self.name, "seed": self.single_seed, "role": self.role, "cost": cost}
        return [{**common, "index": i, "label": y} for i, y in zip(index.tolist(), label.tolist(), strict=True)]
