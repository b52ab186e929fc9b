"""Diagnostics beside a test: the gradient check before an attack, and the variants that the masking checks compare."""

from collections.abc import Sequence
from typing import Any

from common.data.datasets import LabelledImages
from common.robustness.evaluation.attacked import Attacked
from common.robustness.evaluation.evaluator import Evaluator
from common.robustness.gradient_check.attack_gradients import (
    EXACT,
    is_approximate,
    own_gradient,
    transfer_source,
)
from common.robustness.gradient_check.classifier_check import GradientCheck
from common.robustness.masking.baseline import Baseline
from common.robustness.masking.variants import masking_suite

MIN_IMAGES = 12  # paired comparisons of fewer images hardly decide anything
SHARE = 16  # the variants see at most one in so many images


def gradient_checks(evaluators: Sequence[Evaluator]) -> list[GradientCheck]:
    """The check of the classifier's gradient, and of those that attacks take in its place, if any evaluator uses it."""
    if not any(evaluator.uses_gradients for evaluator in evaluators):
        return []
    attacked = [evaluator for evaluator in evaluators if isinstance(evaluator, Attacked)]
    entries = (_approximate(evaluator) for evaluator in attacked)
    return [GradientCheck(gradients=tuple(entry for entry in entries if entry is not None))]


def _approximate(evaluator: Attacked) -> tuple[Any, ...] | None:
    """Name, mode, and source of a transfer attack, if an attack takes another gradient than the exact one."""
    source, mode = transfer_source(evaluator.attack), own_gradient(evaluator.attack)
    if mode in EXACT or (mode is None and (source is None or not is_approximate(source))):
        return None
    return (evaluator.source.title, mode) if source is None else (evaluator.source.title, mode, source)


def masking_variants(
    evaluators: Sequence[Evaluator], images: LabelledImages | Sequence[Any], most: int
) -> list[Evaluator]:
    """Variants of the first white-box attack, and the same attack without the defence, on the first test images.

    They see ``most`` images, at most one in sixteen of the test, and are run if `enough`. Empty without such an attack.
    """
    limit = max(1, min(most, len(images) // SHARE))
    attacked = [e for e in evaluators if isinstance(e, Attacked) and e.uses_gradients][:1]
    if not len(images) or not attacked:
        return []
    pixels = images[0][0].numel()
    return [*masking_suite(attacked[0], limit, pixels), Baseline(attacked[0], limit=limit)]


def enough(images: LabelledImages | Sequence[Any], most: int) -> bool:
    """True if the masking variants see at least 12 images."""
    return min(most, len(images) // SHARE) >= MIN_IMAGES
