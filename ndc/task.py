"""Classifiers of noisy images as a test: certify, or attack like any other classifier."""

from collections.abc import Sequence

from common.robustness.classifiers import Classifier
from common.robustness.evaluation.evaluators import Certified, Evaluator
from common.robustness.threats.norm_ball import Threat
from common.tasks.robust import RobustTask, Verification


class NDCTask(RobustTask):
    """Certify a classifier that says what noise it reads: ``robust-diffusion test -c configs/ndc/….yaml``.

    That is any `Classifier` with an attribute ``sigma`` (pixels): diffusion classifiers (arXiv 2402.02316), or others
    behind a denoiser (`ndc.denoised`). The noise of every ``Certified`` evaluator must be the noise level that the
    classifier reads its input at, else the certificate is about a classifier that was never meant to see such images;
    and its classes the classifier's, where that has ``num_classes``.

    Raises ``ValueError`` for what does not go together.
    """

    def __init__(
        self,
        classifier: Classifier,
        evaluators: Sequence[Evaluator],
        records: str = "runs/ndc",
        threat: Threat | None = None,
        verify: Verification = "refuse",
        masking: int = 16,
    ) -> None:
        sigma, classes = getattr(classifier, "sigma", None), getattr(classifier, "num_classes", None)
        if sigma is None:
            kind = type(classifier).__name__
            raise ValueError(
                f"a {kind} does not say what noise it reads (sigma, pixels). For a classifier of clean images use "
                "common.tasks.RobustTask; ndc.DenoisedClassifier puts a denoiser before it"
            )
        for evaluator in evaluators:
            if isinstance(evaluator, Certified):
                smoothing = evaluator.smoothing
                if smoothing.sigma != sigma:
                    raise ValueError(
                        f"smoothing adds noise of sigma {smoothing.sigma} (pixels), the classifier expects {sigma}: "
                        "give both the same value"
                    )
                if classes is not None and smoothing.num_classes != classes:
                    raise ValueError(f"num_classes must be the classifier's, {classes}; got {smoothing.num_classes}")
        super().__init__(classifier, evaluators, records, threat, verify, masking)
