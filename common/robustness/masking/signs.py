"""Signs of gradient masking that show at a single image."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from common.noise import Noise
from common.robustness.classifiers import Classifier


def masking_signs(
    classifier: Classifier, image: Tensor, label: Tensor, noise: Noise, logits: Tensor
) -> list[dict[str, Any]]:
    """Signs of masking, one dictionary of booleans per image; costs one forward and backward pass.

    ``logits`` (B,K) are those of an earlier pass on the same images with the same noise.

    - ``zero_gradient``: the cross-entropy's gradient in the image is exactly zero, missing, or not finite.
    - ``probabilities``: the outputs lie in [0,1] and sum to one: a superfluous softmax, whose gradient vanishes.
    - ``repeatable``: the same noise gives the same outputs. If not, the defence draws random numbers elsewhere.
    """
    with torch.enable_grad():
        leaf = image.detach().clone().requires_grad_(True)
        repeated = classifier(leaf, noise)
        loss = functional.cross_entropy(repeated, label, reduction="sum")
        gradient = torch.autograd.grad(loss, leaf, allow_unused=True)[0] if loss.requires_grad else None
    slope = torch.zeros(len(image)) if gradient is None else gradient.flatten(1).abs().amax(1)
    hidden = ~(slope.isfinite() & (slope > 0))
    spread = 1 + logits.abs().amax(1)
    same = (repeated.detach() - logits).abs().amax(1) <= 1e-3 * spread
    probable = (logits.amin(1) >= 0) & ((logits.sum(1) - 1).abs() < 1e-4)
    flags = zip(hidden.tolist(), probable.tolist(), same.tolist(), strict=True)
    return [{"zero_gradient": h, "probabilities": p, "repeatable": s} for h, p, s in flags]
