"""Certificate of one image and the interface of certifiers."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from common.checks.images import (
    check_classes,
    check_device,
    check_full_precision,
    check_labels,
    check_near_pixels,
    check_rows,
)
from common.checks.settings import (
    check_count,
    check_flag,
    check_fraction,
    check_not_negative,
    check_optional,
    check_sequence,
)
from common.noise import Noise
from common.records.schema import ABSTAIN
from common.robustness.certification.preconditions import check_once
from common.robustness.classifiers import Classifier
from common.units import parse_number


@dataclass(frozen=True)
class Certificate:
    """Certified L2 radius of one image: with probability 1 - alpha the prediction is constant within ``radius``.

    Args:
        prediction: the certified class, or `ABSTAIN` with radius 0.
        radius: L2, in pixels.
        p_lower: lower confidence bound on the probability of ``prediction``. Smoothing abstains at 1/2 or less.
        samples: samples drawn for the bound; those that select the class do not count.
        count: samples that agree with ``prediction``.
        sound: False for the result of a published formula that is not a bound.
        procedure: samples of the fixed-n procedure whose verdict `Forecast` predicts; None for a certificate.
        undecided: radii whose predicted verdict is still open after ``samples`` (`Forecast`).
        evaluations: network evaluations of the ``procedure``; None if the classifier does not declare its cost.
    """

    prediction: int
    radius: float
    p_lower: float
    samples: int
    count: int = 0
    sound: bool = True
    procedure: int | None = None
    undecided: tuple[float, ...] = ()
    evaluations: int | None = None

    def __post_init__(self) -> None:
        check_count("prediction", self.prediction, ABSTAIN)
        check_not_negative("radius", self.radius)
        check_fraction("p_lower", self.p_lower)
        check_count("samples", self.samples, 0)
        check_count("count", self.count, 0)
        check_flag("sound", self.sound)
        check_optional(check_count, "procedure", self.procedure)
        check_sequence("undecided", self.undecided, check_not_negative, 0)
        check_optional(check_count, "evaluations", self.evaluations, 0)


class Certifier(ABC):
    """Certifier: classifier x images -> one `Certificate` per image, from one row of noise each.

    Attributes:
        sigma: noise level (pixels) of the Gaussian noise that it adds to images; 0 for none.
        num_classes: K, the classifier's.
        labelled: True if it certifies the label's class alone; `certify` then takes ``label`` (B,) as well.
    """

    sigma: float | str
    num_classes: int
    labelled: bool = False
    not_identifying: ClassVar[frozenset[str]] = frozenset({"batch_size"})

    @property
    def level(self) -> float:
        """``sigma`` as a float."""
        return float(parse_number(self.sigma))

    @property
    def noise_levels(self) -> tuple[float, ...]:
        """Noise levels (pixels) at which the classifier is evaluated, 0 included; override for more than ``sigma``."""
        return (self.level,)

    def check(self, classifier: Classifier, image: Tensor, noise: Noise) -> None:
        """Check the preconditions of the certificates on one image (1,C,H,W) and one row of noise.

        By default independent samples at every noise level (`check_sound`), once per classifier and level. Evaluators
        call it before `certify`, and a test before its first image. Raises ``ValueError``.
        """
        check_inputs(image, noise)
        for sigma in self.noise_levels:
            check_once(classifier, image, sigma, noise)

    @abstractmethod
    def certify(self, classifier: Classifier, image: Tensor, noise: Noise) -> Sequence[Certificate]:
        """One certificate per image (B,C,H,W)."""


def check_inputs(image: Tensor, noise: Noise, label: Tensor | None = None, classes: int = 0) -> None:
    """Raise ``ValueError`` for images other than finite floats in about [0,1], and unless each has a row of noise.

    ``label``: classes of the images, 0 .. ``classes`` - 1, checked if they are given.
    """
    check_full_precision(check_near_pixels(image))
    check_rows(noise, image)
    check_device("noise", noise.index, image)
    if label is not None:
        check_classes(check_labels(label, image), classes)
