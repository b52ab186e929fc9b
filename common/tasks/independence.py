"""Checks before a test: the trainer, certifiers, and logits that depend on an image and its noise alone."""

from collections.abc import Sequence
from functools import partial

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_warn

from common.checks.images import check_logits
from common.noise import Noise
from common.numerics.copies import copied
from common.robustness.classifiers import Classifier, deployed
from common.robustness.evaluation.batches import Batch
from common.robustness.evaluation.clean_and_certified import Certified
from common.robustness.evaluation.evaluator import Evaluator
from common.robustness.padding import Padded, unpadded
from common.tasks.engine import EngineOfTest

IMAGES = 2
"""Images of the check, by three calls of the classifier on at most as many."""

_TOLERANCE = 1e-2  # relative to the largest logit: rounding, also in reduced precision, stays well below


def check_trainer(trainer: L.Trainer) -> None:
    """Raise ``ValueError`` in inference mode, which forbids gradients, and for a precision other than float32."""
    if torch.is_inference_mode_enabled():
        raise ValueError("attacks need gradients: leave torch.inference_mode(), or use Trainer(inference_mode=False)")
    if str(trainer.precision) != "32-true":
        raise ValueError(
            f"images and budgets are float32; got precision {trainer.precision}. Use 32-true, and for the networks "
            "model.init_args.engine.precision"
        )


def check_certifiers(
    classifier: Padded, evaluators: Sequence[Evaluator], first: Batch | None, engine: EngineOfTest
) -> None:
    """Check the preconditions of every certifier on the ``first`` image, if there is one. Raises ``ValueError``."""
    for evaluator in evaluators:
        if isinstance(evaluator, Certified) and first is not None:
            (image, _, index), check = first, evaluator.smoothing.check
            noise = Noise.of(0, index).stream("soundness")
            engine.fitted(partial(check, classifier, *copied(image, noise)), evaluator.name, classifier)


def warn_of_dependence(classifier: Classifier, evaluators: Sequence[Evaluator], first: Batch | None) -> None:
    """Warn of `dependence` on the ``first`` images, of classifiers that are not only certified: a certifier refuses."""
    others = any(not isinstance(evaluator, Certified) for evaluator in evaluators)
    if first is not None and others and (warning := dependence(classifier, first)):
        rank_zero_warn(warning)


def dependence(classifier: Classifier, batch: Batch) -> str:
    """Warning of logits that differ between calls under the same noise, or with the place in a batch; else empty.

    Such numbers depend on the batch size and on the order of the images. The gradient check looks at single images,
    and is run for attacks by gradients alone.
    """
    image, _, index = batch
    bare, noise = unpadded(classifier), Noise.of(0, index).stream("independence")
    rows = torch.arange(len(image), device=image.device)
    last = rows[-1:]
    with deployed(bare), torch.no_grad(), torch.autocast(image.device.type, enabled=False):
        first, again, alone = (
            check_logits(bare(*copied(image[part], noise.rows(part))), len(part)).clone() for part in (rows, rows, last)
        )
    if _differ(first, again):
        return (
            "two calls of the classifier with the same noise gave different logits: it draws random numbers from "
            "elsewhere or keeps state between calls, so its numbers depend on the order of the images. "
            "Take all random numbers from the noise in forward, and keep no state"
        )
    if _differ(first[-1:], alone):
        return (
            "the classifier's logits for an image depend on its place in the batch or on the other images there, so "
            "its numbers depend on the batch size. Let each row depend on its own image and its own row of noise"
        )
    return ""


def _differ(first: torch.Tensor, second: torch.Tensor) -> bool:
    finite = first.isfinite() & second.isfinite()
    size = first[finite].abs().amax() if bool(finite.any()) else first.new_zeros(())
    return bool(((first - second)[finite].abs() > _TOLERANCE * size).any())
