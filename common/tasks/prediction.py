"""Predictions of any classifier for a batch, before and after purification."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.checks.images import OutputError, check_purified
from common.noise import Noise
from common.numerics.copies import copied
from common.robustness.certification.forecast import Forecast
from common.robustness.certification.smoothed_prediction import SmoothedPrediction
from common.robustness.certification.smoothing import Smoothing
from common.robustness.classifiers import Classifier, Purified
from common.robustness.evaluation.batches import Batch
from common.robustness.evaluation.clean_and_certified import Certified
from common.robustness.evaluation.evaluator import Evaluator
from common.robustness.padding import unpadded
from common.robustness.voting import Voting


@dataclass
class Prediction:
    """Predictions for B images.

    - ``index``, ``label`` (B,): the batch's.
    - ``before`` (B,K): class probabilities of the image itself.
    - ``purified`` (B,C,H,W): purified image, pixels, not clamped; None without a purifier.
    - ``after`` (B,K): class probabilities of the whole defence; None without a purifier.
    - ``smoothed``: class or abstention of the smoothed classifier, one per image; None without smoothing.
    - ``failure``: the reason why the network rejects images of this size, else ""; with it there are no probabilities.
    """

    index: Tensor
    label: Tensor
    before: Tensor
    purified: Tensor | None = None
    after: Tensor | None = None
    smoothed: Sequence[SmoothedPrediction] | None = None
    failure: str = ""


def predict_batch(classifier: Classifier, batch: Batch, seed: int = 0) -> Prediction:
    """One draw per image of a batch (image, label, index), with the noise of an evaluator's first scored draw.

    A network that rejects the images' size gives a `Prediction` with a ``failure``. Raises ``ValueError`` if memory
    does not suffice.
    """
    image, label, index = batch
    if not len(index):
        return Prediction(index, label, torch.zeros(0, 0))
    defence = unpadded(classifier)
    with torch.inference_mode(False), torch.no_grad():  # guidance takes gradients inside
        image, noise = image.clone(), Noise.of(seed, index.clone()).stream("score")
        try:
            return Prediction(index, label, *_probabilities(defence, image, noise))
        except OutputError:  # of any size
            raise
        except torch.OutOfMemoryError as error:
            size = f"{len(image)} images of {pixel_size(image)}"
            raise ValueError(f"out of memory for {size}: reduce data.init_args.batch_size") from error
        except (RuntimeError, ValueError, AssertionError) as error:  # networks reject a size in any of these ways
            reason = str(error).split("\n")[0]
            failure = f"the network rejects images of {pixel_size(image)} ({reason}); data.init_args.size resizes"
            return Prediction(index, label, torch.zeros(0, 0), failure=failure)


def smoothed_predictions(
    classifier: Classifier, batch: Batch, evaluators: Sequence[Evaluator]
) -> Sequence[SmoothedPrediction] | None:
    """Predictions of the first smoothed classifier among the ``evaluators``, under its seed; None if there is none.

    Raises ``ValueError`` as `Certifier.check` does. A `Forecast` predicts verdicts, no classes.
    """
    if (found := smoothed_classifier(evaluators)) is None:
        return None
    smoothing, seed = found
    defence = unpadded(classifier)
    with torch.inference_mode(False), torch.no_grad():
        image, noise = batch[0].clone(), Noise.of(seed, batch[2].clone())
        smoothing.check(defence, *copied(image[:1], noise.rows(slice(0, 1)).stream("soundness")))
        return smoothing.predict(defence, image, noise.stream("smoothing"))


def smoothed_classifier(evaluators: Sequence[Evaluator]) -> tuple[Smoothing, int] | None:
    """The smoothing that predicts, and its seed; None without one."""
    for evaluator in evaluators:
        smoothing = evaluator.smoothing if isinstance(evaluator, Certified) else None
        if isinstance(smoothing, Smoothing) and not isinstance(smoothing, Forecast):
            return smoothing, evaluator.single_seed
    return None


def pixel_size(image: Tensor) -> str:
    """Height and width of (...,H,W) for a message: ``32x32 pixels``."""
    return f"{image.shape[-2]}x{image.shape[-1]} pixels"


def _probabilities(defence: Classifier, image: Tensor, noise: Noise) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """``before``, ``purified`` and ``after``."""
    inner = defence.classifier if isinstance(defence, Voting) else defence
    if not isinstance(inner, Purified):
        return defence(image, noise).float().softmax(1), None, None
    if inner is defence:
        purified: Tensor = check_purified(inner.purifier(*copied(image, noise)), image)
        after = inner.classifier(purified, noise.stream("classifier"))
    else:
        purified, after = defence.views(image, noise)["purified"], defence(image, noise)
    before = inner.classifier(image, noise.stream("classifier"))  # last, so that the progress bar moves at once
    return before.float().softmax(1), purified, after.float().softmax(1)
