"""What the tests of a classifier's gradient say: a name, an error against its tolerance, and a sentence."""

import torch
from torch import Tensor

from common.numerics.finding import Finding
from common.robustness.gradient_check.recorder import ForwardBackward

ROUNDING = 1e-5  # relative: what float32 may do to a value that is computed twice
REPEATED = 1e-3  # relative: the same for gradients, in which rounding is magnified
SINGLE = 0.1  # relative: a gradient that loses more than this in float32 misleads an attack
FAINT = 1e-30  # float32 underflows at 1e-38: what is as small as this soon vanishes


def gap(a: Tensor, b: Tensor) -> float:
    """Largest difference of two logit vectors, relative to the largest logit."""
    size = float(b.abs().max())
    return float((a - b).abs().max()) / size if size else float(a.abs().max())


def distance(a: Tensor | None, b: Tensor | None) -> float:
    """Euclidean distance over the length of ``b``; infinite where one is None and the other is not."""
    if a is None or b is None:
        return 0.0 if a is b else torch.inf
    size = float(b.norm())
    return float((a - b).norm()) / size if size else float(a.norm())


def excused(finding: Finding) -> Finding:
    """A failure that belongs to a gradient which is declared to be approximate."""
    sentence = f"{finding.sentence} It was declared to be so: what is measured is an upper bound."
    return Finding.undecided(finding.name, sentence, finding.error)


def same(first: ForwardBackward, second: ForwardBackward) -> Finding:
    """Twice the same noise."""
    error = max(gap(first.logits, second.logits), distance(first.gradient, second.gradient) * (ROUNDING / REPEATED))
    return Finding.of(
        "same noise",
        error,
        ROUNDING,
        "The same noise gives the same logits and the same gradient.",
        "The same noise gave other logits or another gradient: the defence draws random numbers that it was not "
        "handed, so an attack and its score see different defences. Take all of them from the noise in forward.",
    )


def steady(error: float) -> Finding:
    """Other noise, for a classifier that is declared deterministic; ``error`` of the logits."""
    return Finding.of(
        "declared randomness",
        error,
        ROUNDING,
        "The classifier depends on its noise only if it says so.",
        "The classifier is declared deterministic, yet other noise gives other logits: it would be attacked without "
        "EOT and scored once. Set randomised = True.",
    )


def logits(logits: Tensor) -> Finding:
    """Logits, not probabilities."""
    probable = bool((logits.min() >= 0) & ((logits.sum() - 1).abs() < 1e-4)) and logits.shape[1] > 1
    return Finding.of(
        "outputs are logits",
        float(probable),
        0.5,
        "The classifier's outputs are logits.",
        "The classifier's outputs are probabilities, whose loss gradient vanishes: remove the softmax, or return its "
        "logarithm.",
    )


def as_deployed(error: float) -> Finding:
    """With and without a gradient recorded; ``error`` of the logits."""
    return Finding.of(
        "attacked as deployed",
        error,
        ROUNDING,
        "With a gradient recorded the classifier is the one that is deployed.",
        "While a gradient is recorded the classifier gives other logits than without one: the attack would work on "
        "another defence than the one that is scored. Let forward not depend on grad mode.",
    )


def recomputed(error: float) -> Finding:
    """Calls in the backward pass against those in the forward pass."""
    return Finding.of(
        "recomputed networks",
        error,
        ROUNDING,
        "Networks see in the backward pass what they saw in the forward pass.",
        "In the backward pass networks are asked, or answer, what they were not in the forward pass: other noise, "
        "another time grid, dropout. Recompute from stored states, with the same noise and times.",
    )


def alive(answer: ForwardBackward, label: Tensor) -> Finding:
    """A gradient that is there, finite and far from underflow; where the cross-entropy has none, it is said."""
    name, size = "gradient reaches the image", 0.0
    if answer.gradient is not None:
        size = float(answer.gradient.abs().max())
    if not FAINT < size < torch.inf:
        sentence = (
            f"The logits' gradient in the image is missing, zero, about to underflow or not finite (largest: "
            f"{size:.3g}): gradient attacks are blind. Remove detach, no_grad, rounding and scaling on the way."
        )
        return Finding(name, False, size, sentence)
    residual = answer.logits.softmax(1)
    residual[0, int(label)] -= 1
    if not bool(residual.any()):
        sentence = "Logits are so far apart that the cross-entropy's gradient is zero: attack the margin or DLR."
        return Finding.undecided(name, sentence)
    return Finding(name, True, 0.0, "A gradient reaches the image.")


def differences(error: float, tolerance: float) -> Finding:
    """Gradient against finite differences."""
    return Finding.of(
        "finite differences",
        error,
        tolerance,
        "Finite differences confirm the gradient.",
        "Finite differences contradict the gradient: some path is detached, replaced by another function's gradient "
        "(straight-through, BPDA), recomputed with other noise or times, or the logits jump.",
    )


def staircase(found: bool) -> Finding:
    """Whether the logits were ``found`` to be piecewise constant."""
    return Finding.of(
        "staircase",
        float(found),
        0.5,
        "The logits move with the image.",
        "The logits are piecewise constant in the image: something rounds (quantisation), and no gradient of it can be "
        "right. Attack a smooth stand-in, without gradients, or leave the rounding out.",
    )


def single(answer: ForwardBackward, fine: ForwardBackward) -> Finding:
    """The deployed gradient against that in float64."""
    return Finding.of(
        "single precision",
        distance(None if answer.gradient is None else answer.gradient.double(), fine.gradient),
        SINGLE,
        "The gradient in float32 is that in float64.",
        "The gradient in float32 is not the one in float64: it underflows, is computed in half precision, or rounding "
        "is magnified on the way.",
    )
