"""One forward pass before an evaluation: shape and values of the logits, and the number of classes."""

import warnings

import torch
from torch import Tensor, nn

from common.noise import Noise
from common.robustness.classifiers import Classifier, deployed


def probe(classifier: Classifier, images: Tensor, labels: Tensor | None = None) -> int:
    """Number of classes K, from a forward pass of at most two images on the classifier's device.

    ``labels`` are those of all images. Raises ``ValueError`` for logits of another shape than (B,K) or not finite, for
    a defence that is not in float32, and for labels outside 0..K-1; warns if the outputs are probabilities.
    """
    rows = images[:2]
    noise = Noise.of(0, torch.arange(len(rows), device=rows.device)).stream("probe")
    with deployed(classifier), torch.no_grad(), torch.autocast(rows.device.type, enabled=False):
        try:
            logits = classifier(rows, noise)
        except (RuntimeError, TypeError, IndexError) as error:
            reason = str(error).split("\n")[0]
            raise ValueError(
                f"the defence fails on images of shape {tuple(rows.shape)}: {reason}{_remedy(classifier)}"
            ) from error
    _check_logits(logits, rows)
    classes: int = logits.shape[1]
    if labels is not None and (largest := int(labels.max())) >= classes:
        advice = " Subtract 1: classes count from 0" if int(labels.min()) >= 1 and largest == classes else ""
        raise ValueError(
            f"labels must be in 0..{classes - 1}, the defence has {classes} classes; got {largest}.{advice}"
        )
    if _ends_in_softmax(classifier) or _are_probabilities(logits):
        warnings.warn(
            "the defence returns probabilities, not logits: gradients vanish and its robustness is overestimated. "
            "Remove the softmax",
            UserWarning,
            stacklevel=2,
        )
    return classes


def _remedy(classifier: nn.Module) -> str:
    """Advice for a module with parameters of another type than the images."""
    types = {one.dtype for one in classifier.parameters() if one.is_floating_point()} - {torch.float32}
    return f". Images are float32, parameters {min(map(str, types))}: pass module.float()" if types else ""


def _check_logits(logits: object, images: Tensor) -> None:
    count = len(images)
    if not isinstance(logits, Tensor):
        kind = type(logits).__name__
        raise ValueError(f"the defence must return logits, a tensor (B,K); got {kind}. Return its logits alone")
    if logits.ndim != 2 or len(logits) != count or logits.shape[1] < 2:
        advice = "squeeze it to (B,K)" if logits.ndim > 2 else "return one number per class, also of two"
        if logits.shape == images.shape:
            advice = "of a purifier, pass the pair (purifier, classifier)"
        raise ValueError(
            f"the defence must return logits (B,K), K >= 2; got {tuple(logits.shape)} for {count} images: {advice}"
        )
    if not bool(logits.isfinite().all()):
        raise ValueError(
            "the defence's logits are NaN or infinite on the first images: check its weights and its input"
        )


def _are_probabilities(logits: Tensor) -> bool:
    return bool((logits >= 0).all() and ((logits.sum(1) - 1).abs() < 1e-4).all())


def _ends_in_softmax(module: nn.Module) -> bool:
    """True for a sequence that ends in a softmax, at any depth."""
    children = list(module.children())
    return isinstance(module, nn.Softmax) or (bool(children) and _ends_in_softmax(children[-1]))
