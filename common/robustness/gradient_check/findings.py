"""Findings of the gradient checks: name, error against its tolerance, and a sentence for the report."""

import torch
from torch import Tensor

from common.numerics.finding import ROUNDING, Finding
from common.robustness.gradient_check.recomputation import ForwardBackward

REPEATED = 1e-3  # relative: the same for gradients, which magnify rounding
SINGLE = 0.1  # relative: a gradient that loses more than this in float32 misleads an attack
FAINT = 1e-30  # smallest gradient that is safe from float32 underflow, at 1e-38


def logit_error(a: Tensor, b: Tensor) -> float:
    """Largest difference of two logit vectors, relative to the largest logit of ``b``."""
    size = float(b.abs().max())
    return float((a - b).abs().max()) / size if size else float(a.abs().max())


def gradient_error(a: Tensor | None, b: Tensor | None) -> float:
    """Euclidean distance of two gradients over the length of ``b``; infinite if only one of them is None."""
    if a is None or b is None:
        return 0.0 if a is b else torch.inf
    size = float(b.norm())
    return float((a - b).norm()) / size if size else float(a.norm())


def declared_approximate(finding: Finding) -> Finding:
    """A failure of a gradient that is declared approximate: undecided."""
    sentence = f"{finding.sentence} It was declared to be so: what is measured is an upper bound."
    return Finding.undecided(finding.name, sentence, finding.error)


def same_noise(first: ForwardBackward, second: ForwardBackward) -> Finding:
    """Logits and gradient of two passes under the same noise."""
    change = gradient_error(first.gradient, second.gradient) * (ROUNDING / REPEATED)
    return Finding.of(
        "same noise",
        max(logit_error(first.logits, second.logits), change),
        ROUNDING,
        "The same noise gives the same logits and the same gradient.",
        "The same noise gave other logits or another gradient: the defence draws random numbers from elsewhere, so an "
        "attack and its score see different defences. Take all of them from the noise in forward, "
        "such as noise.normal(0, image.shape[1:]) for torch.randn_like(image).",
    )


def declared_randomness(error: float) -> Finding:
    """``error`` of the logits under other noise, for a classifier that is declared deterministic."""
    return Finding.of(
        "declared randomness",
        error,
        ROUNDING,
        "The classifier depends on its noise only if it is declared randomised.",
        "The classifier is declared deterministic, yet other noise gives other logits: it would be attacked without "
        "EOT and scored once. Set randomised = True.",
    )


def outputs_are_logits(logits: Tensor) -> Finding:
    """Logits (1,K), not probabilities."""
    probable = bool((logits.min() >= 0) & ((logits.sum() - 1).abs() < 1e-4)) and logits.shape[1] > 1
    return Finding.of(
        "outputs are logits",
        float(probable),
        0.5,
        "The classifier's outputs are logits.",
        "The classifier's outputs are probabilities, whose loss gradient vanishes: remove the softmax, or return its "
        "logarithm.",
    )


def attacked_as_deployed(error: float) -> Finding:
    """``error`` of the logits while a gradient is recorded."""
    return Finding.of(
        "attacked as deployed",
        error,
        ROUNDING,
        "With a gradient recorded the classifier is the one that is deployed.",
        "While a gradient is recorded the classifier gives other logits than without one: the attack would work on "
        "another defence than the one that is scored. Let forward not depend on grad mode.",
    )


def recomputed_networks(error: float) -> Finding:
    """``error`` of network calls in the backward pass against those in the forward pass."""
    return Finding.of(
        "recomputed networks",
        error,
        ROUNDING,
        "Recomputed networks have the same inputs and outputs in the backward pass as in the forward pass.",
        "The backward pass recomputes networks on different inputs, or with different outputs, than the forward pass: "
        "other noise, another time grid, dropout. Recompute from stored states, with the same noise and times.",
    )


def gradient_reaches_image(result: ForwardBackward, label: Tensor) -> Finding:
    """A gradient that exists, is finite and far from underflow; undecided where that of the cross-entropy is zero."""
    name, size = "gradient reaches the image", 0.0
    if result.gradient is not None:
        size = float(result.gradient.abs().max())
    if not FAINT < size < torch.inf:
        sentence = (
            f"The logits' gradient in the image is missing, zero, about to underflow or not finite (largest: "
            f"{size:.3g}): gradient attacks are blind. Remove detach, no_grad, rounding and scaling on the way."
        )
        return Finding(name, False, size, sentence)
    residual = result.logits.softmax(1)
    residual[0, int(label)] -= 1
    if not bool(residual.any()):
        sentence = "Logits are so far apart that the cross-entropy's gradient is zero: attack the margin or DLR."
        return Finding.undecided(name, sentence)
    return Finding(name, True, 0.0, "A gradient reaches the image.")


def finite_differences(error: float, tolerance: float) -> Finding:
    """``error`` of the gradient against finite differences."""
    return Finding.of(
        "finite differences",
        error,
        tolerance,
        "Finite differences confirm the gradient.",
        "Finite differences contradict the gradient: some path is detached, replaced by another function's gradient "
        "(straight-through, BPDA), recomputed with other noise or times, or the logits jump.",
    )


def staircase(piecewise_constant: bool) -> Finding:
    """Logits that are piecewise constant in the image."""
    return Finding.of(
        "staircase",
        float(piecewise_constant),
        0.5,
        "The logits move with the image.",
        "The logits are piecewise constant in the image: something rounds (quantisation), and no gradient of it can be "
        "right. Attack a smooth surrogate, without gradients, or remove the rounding.",
    )


def single_precision(result: ForwardBackward, double: ForwardBackward) -> Finding:
    """The deployed gradient against that of the float64 copy."""
    return Finding.of(
        "single precision",
        gradient_error(None if result.gradient is None else result.gradient.double(), double.gradient),
        SINGLE,
        "The gradient in float32 agrees with that in float64.",
        "The gradient in float32 disagrees with that in float64: it underflows, is computed in half precision, or "
        "rounding is magnified on the way.",
    )
