"""DiffPure as a test: purify, classify, evaluate."""

from collections.abc import Sequence

from common.diffusion.purifiers import Purifier
from common.robustness.classifiers import Classifier, Purified
from common.robustness.evaluation.evaluators import Evaluator
from common.robustness.threats.norm_ball import Threat
from common.tasks.robust import RobustTask, Verification


class DiffPureTask(RobustTask):
    """Test ``classifier`` behind DiffPure (arXiv 2205.07460): ``robust-diffusion test -c configs/diffpure/….yaml``.

    ``purifier`` is a ``DiffPure``, one of its variants, or several in a chain. The evaluators attack the composition,
    so gradients run through the sampler as the purifier's ``gradient`` says.
    """

    def __init__(
        self,
        purifier: Purifier,
        classifier: Classifier,
        evaluators: Sequence[Evaluator],
        records: str = "runs/diffpure",
        threat: Threat | None = None,
        verify: Verification = "refuse",
        masking: int = 16,
    ) -> None:
        super().__init__(Purified(purifier, classifier), evaluators, records, threat, verify, masking)
