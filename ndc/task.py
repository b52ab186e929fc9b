"""NDCTask: certify a classifier of noisy images."""

from typing import Any

from common.robustness.certification.certificate import Certifier
from common.robustness.classifiers import Classifier
from common.robustness.evaluation.clean_and_certified import Certified
from common.robustness.protocols import NoisyClassifier
from common.tasks.robust import RobustTask
from common.units import parse_number


class NDCTask(RobustTask):
    """Certify a classifier of noisy images: ``robust-diffusion test -c configs/ndc/….yaml``.

    Raises ``ValueError`` unless every ``Certified`` evaluator evaluates the classifier at its own noise level alone,
    and has as many classes, where the classifier declares ``num_classes``.

    Parameters
    ----------
    classifier:
        A `NoisyClassifier`, with a noise level ``sigma`` (pixels): a diffusion classifier (arXiv 2402.02316), or
        another classifier behind a denoiser (``ndc.DenoisedClassifier``).
    args, kwargs:
        The other arguments of ``RobustTask``: evaluators, records, threat, verify, masking, engine.
    """

    def __init__(self, classifier: Classifier, *args: Any, **kwargs: Any) -> None:
        super().__init__(classifier, *args, **kwargs)
        if not isinstance(classifier, NoisyClassifier):
            raise ValueError(
                f"the classifier must have a noise level sigma (pixels); a {type(classifier).__name__} has none. For a "
                "classifier of clean images use common.tasks.RobustTask, or put a denoiser before it: "
                "ndc.DenoisedClassifier"
            )
        for evaluator in self.evaluators:
            if isinstance(evaluator, Certified):
                check_certifier(evaluator.smoothing, classifier)


def check_certifier(smoothing: Certifier, classifier: NoisyClassifier) -> None:
    """Raise ``ValueError`` unless the certifier's noise levels and number of classes are the classifier's."""
    expected, classes = parse_number(classifier.sigma), classifier.num_classes
    for sigma in smoothing.noise_levels:
        if sigma != expected:
            raise ValueError(
                f"smoothing adds noise of sigma {sigma} (pixels), the classifier expects {expected}: "
                "give both the same value"
            )
    if classes is not None and smoothing.num_classes != classes:
        raise ValueError(f"num_classes must be the classifier's, {classes}; got {smoothing.num_classes}")
