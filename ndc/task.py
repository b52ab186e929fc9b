"""Noised diffusion classifiers as a test: certify, or attack like any other classifier."""

from collections.abc import Sequence

from common.evaluation import RobustTask, Verification
from common.robustness.evaluators import Certified, Evaluator
from common.robustness.threat import Threat
from ndc.classifier import NoisedDiffusionClassifier


class NDCTask(RobustTask):
    """Certify a diffusion classifier (arXiv 2402.02316): ``robust-diffusion test -c configs/ndc/….yaml``.

    The smoothing noise of every ``Certified`` evaluator must be the noise level that the classifier reads its input
    at, else the certificate is about a classifier that was never meant to see such images.
    """

    def __init__(
        self,
        classifier: NoisedDiffusionClassifier,
        evaluators: Sequence[Evaluator],
        records: str = "runs/ndc",
        threat: Threat | None = None,
        verify: Verification = "refuse",
        masking: int = 16,
    ) -> None:
        for evaluator in evaluators:
            if isinstance(evaluator, Certified) and evaluator.smoothing.sigma != classifier.sigma:
                raise ValueError(
                    f"smoothing adds noise of sigma {evaluator.smoothing.sigma} (pixels), the classifier expects "
                    f"{classifier.sigma}: give both the same value"
                )
        super().__init__(classifier, evaluators, records, threat, verify, masking)
