"""The attack of a test on another classifier, as evidence that the attack works."""

from dataclasses import KW_ONLY, dataclass, replace

from common.checks.settings import check_optional, check_part, check_text
from common.records.schema import AttackedRecord, Role
from common.robustness.classifiers import Classifier, ClassifierWrapper, Purified
from common.robustness.evaluation.attacked import Attacked
from common.robustness.evaluation.batches import Batch
from common.robustness.evaluation.evaluator import Evaluator


@dataclass(frozen=True)
class Baseline(Evaluator):
    """The same attack on another ``classifier``, by default the undefended one behind the purifier.

    Records are those of ``attacked``, with ``baseline``: "undefended", or the name ``called`` of ``classifier``, for
    instance "adversarially trained". No records for a defence without a purifier.
    """

    attacked: Attacked
    classifier: Classifier | None = None
    called: str = "undefended"
    _: KW_ONLY
    name: str = "undefended"
    limit: int | None = 32
    role: Role = Role.BASELINE

    def __post_init__(self) -> None:
        check_part("attacked", self.attacked, Attacked)
        check_optional(check_part, "classifier", self.classifier, Classifier)
        check_text("called", self.called)
        if not isinstance(self.seed, int | list | tuple) or self.seed not in (0, self.attacked.seed):
            raise ValueError(f"seed must be left out, or be the attack's, {self.attacked.seed}; got {self.seed!r}")
        object.__setattr__(self, "seed", self.attacked.seed)
        super().__post_init__()

    def __call__(self, classifier: Classifier, batch: Batch) -> list[AttackedRecord]:
        other = undefended(classifier) if self.classifier is None else self.classifier.freeze().to(batch[0].device)
        if other is None:
            return []
        attacked = replace(self.attacked, name=self.name, role=self.role, draws=1, resubmissions=1, keep_images=0)
        return [replace(row, baseline=self.called) for row in attacked(other, batch)]


def undefended(classifier: Classifier) -> Classifier | None:
    """The classifier behind the purifier, inside of any wrappers; None if there is no purifier."""
    if isinstance(classifier, ClassifierWrapper):
        return undefended(classifier.classifier)
    return classifier.classifier if isinstance(classifier, Purified) else None
