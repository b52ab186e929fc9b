"""NDCTask: certify a classifier of noisy images."""

from typing import Any, Protocol, runtime_checkable

from common.robustness.classifiers import Classifier
from common.robustness.evaluation.evaluators import Certified
from common.tasks.robust import RobustTask


@runtime_checkable
class HasNoiseLevel(Protocol):
    """Classifier of images with Gaussian noise of standard deviation ``sigma`` (pixels)."""

    sigma: float


@runtime_checkable
class HasClasses(Protocol):
    """Classifier with a fixed number of classes."""

    num_classes: int


class NDCTask(RobustTask):
    """Certify a classifier of noisy images: ``robust-diffusion test -c configs/ndc/….yaml``.

    Raises ``ValueError`` unless every ``Certified`` evaluator adds the noise level that the classifier reads its
    input at, and has as many classes, where the classifier has ``num_classes``.

    Parameters
    ----------
    classifier:
        Any ``Classifier`` with a noise level ``sigma`` (pixels): a diffusion classifier (arXiv 2402.02316), or
        another classifier behind a denoiser (``ndc.DenoisedClassifier``).
    args, kwargs:
        The other arguments of ``RobustTask``: evaluators, records, threat, verify, masking.
    """

    def __init__(self, classifier: Classifier, *args: Any, **kwargs: Any) -> None:
        super().__init__(classifier, *args, **kwargs)
        if not isinstance(classifier, HasNoiseLevel):
            raise ValueError(
                f"the classifier must have a noise level sigma (pixels); a {type(classifier).__name__} has none. For a "
                "classifier of clean images use common.tasks.RobustTask, or put a denoiser before it: "
                "ndc.DenoisedClassifier"
            )
        for evaluator in self.evaluators:
            if isinstance(evaluator, Certified):
                classes = classifier.num_classes if isinstance(classifier, HasClasses) else None
                check_certifier(evaluator, classifier.sigma, classes)


def check_certifier(evaluator: Certified, sigma: float, classes: int | None) -> None:
    """Raise ``ValueError`` unless the evaluator's noise level and number of classes are the classifier's."""
    smoothing = evaluator.smoothing
    if smoothing.sigma != sigma:
        raise ValueError(
            f"smoothing adds noise of sigma {smoothing.sigma} (pixels), the classifier expects {sigma}: "
            "give both the same value"
        )
    if classes is not None and smoothing.num_classes != classes:
        raise ValueError(f"num_classes must be the classifier's, {classes}; got {smoothing.num_classes}")
