"""Published Lipschitz radii of DC, beside the sound ones: claims, not certificates."""

import math
from dataclasses import dataclass
from typing import Literal, TypeGuard, get_args

import torch
from torch import Tensor

from common.checks.settings import check_count, check_one_of, check_size
from common.noise import Noise
from common.robustness.certification.certificate import Certificate
from common.robustness.classifiers import Classifier
from common.units import sigma_to_pixel
from ndc.bounded import BoundedDiffusionClassifier
from ndc.classifier import NoisedDiffusionClassifier
from ndc.expected_logits import ExpectedLogits, leading_class

Constants = Literal["reference", "paper"]


@dataclass(frozen=True)
class Claimed(ExpectedLogits[NoisedDiffusionClassifier]):
    """DC's radii by the constants of the "paper" (`paper_slopes`) or of the "reference" code (`reference_slopes`).

        radius = (largest mean logit - second largest) / sum_i slope_i,     means over ``samples`` draws of the noise

    Takes the place of `ndc.Lipschitz`, for any `NoisedDiffusionClassifier` of variant "dc"; its certificates are not
    ``sound`` and have ``p_lower`` 0. The published script takes one sample; nothing bounds the error of the means. The
    denoised images need not be clipped, though both derivations assume it. It never abstains.

    Raises ``ValueError`` for settings out of range, for another classifier, and for one with a ``forward`` of its own.
    Source: arXiv 2402.02316 (v2), theorem 3.1, and its published code.
    """

    num_classes: int = 10
    samples: int = 1
    constants: Constants = "reference"

    def __post_init__(self) -> None:
        check_size("num_classes", self.num_classes, 2)
        check_count("samples, draws of the noise,", self.samples)
        check_one_of("constants", self.constants, get_args(Constants))

    def _supported(self, classifier: Classifier) -> NoisedDiffusionClassifier:
        if not isinstance(classifier, NoisedDiffusionClassifier) or classifier.variant != "dc":
            raise ValueError(
                "Claimed needs a NoisedDiffusionClassifier of variant 'dc', as its constants assume; got "
                f"{type(classifier).__name__}. Pass variant='dc', sigma=0"
            )
        return classifier

    def _losses(self, dc: NoisedDiffusionClassifier, image: Tensor, noise: Noise) -> Tensor:
        return dc.unlimited(image, noise) if _limits_losses(dc) else dc.losses(image, noise)

    def _limited(self, dc: NoisedDiffusionClassifier, image: Tensor, noise: Noise) -> Tensor:
        losses = self._losses(dc, image, noise)
        return dc.limited(losses, image.shape[1:].numel()) if _limits_losses(dc) else losses

    def _certificate(self, dc: NoisedDiffusionClassifier, image: Tensor, losses: Tensor) -> Certificate:
        dimension = image.shape[1:].numel()
        logits = dc.logits(losses, dimension)
        prediction, others = leading_class(logits)
        gap = logits.mean(0)[prediction] - logits.mean(0)[others].max()
        slopes = reference_slopes if self.constants == "reference" else paper_slopes
        radius = (gap / slopes(dc, dimension).sum()).item()
        count = int((logits.argmax(1) == prediction).sum())
        return Certificate(prediction, radius, 0.0, self.samples, count, sound=False)


def _limits_losses(dc: NoisedDiffusionClassifier) -> TypeGuard[BoundedDiffusionClassifier]:
    """True if the classifier's losses are the limited ones of `BoundedDiffusionClassifier`, not of a subclass."""
    return isinstance(dc, BoundedDiffusionClassifier) and type(dc).losses is BoundedDiffusionClassifier.losses


def paper_slopes(dc: NoisedDiffusionClassifier, dimension: int) -> Tensor:
    """Slopes of theorem 3.1 for logit differences: 2 v_i / s_i (sqrt(2/pi) + 2 / sqrt(D)) at node i, (T,).

    s_i is the noise level in pixels, v_i the weight of a mean squared error in pixels. Compared with
    `ndc.lipschitz_bounds.slopes` the part of the moving noise is twice too large, and that of the moving target has an
    extra factor 1 / s_i: unsound where s_i > 1.
    """
    weight, level = 4 * _weight_of_mean(dc, dimension), sigma_to_pixel(dc.bound.sigma)
    return 2 * weight / level * (math.sqrt(2 / math.pi) + 2 / math.sqrt(dimension))


def reference_slopes(dc: NoisedDiffusionClassifier, dimension: int) -> Tensor:
    """Slopes of the published script: 2 v_i / sigma_i (1 + sqrt(2/pi)) / T at node i, (T,).

    sigma_i and v_i, the weight of a mean squared error, are of the model frame, but the radius is read in pixels. The
    division by T makes the Lipschitz constant a mean over nodes, while the logits are a sum: radii T times too large.

    The script takes the mean over the left ends of its grid's intervals, 125 for the 124 nodes of its logits: so are
    they for nodes of the rule "reference". For others they are the nodes themselves.
    """
    weight, level = _weight_of_mean(dc, dimension), dc.bound.sigma
    if dc.nodes.rule == "reference":
        width = (level[-1] - level[0]) / (len(level) - 1)
        level = torch.cat((level[:1] - width, level))
        weight = dimension * dc.weight(level) * width / dc.temperature(dimension)
    return 2 * weight / level * (1 + math.sqrt(2 / math.pi)) / len(level)


def _weight_of_mean(dc: NoisedDiffusionClassifier, dimension: int) -> Tensor:
    """Weights v_i (T,) of mean squared errors in the logits."""
    return dimension * dc.bound.weight / dc.temperature(dimension)
