"""Adversarial training of classifiers: inner maximisation, PGD-AT and TRADES.

The adversary of training differs from attacks of an evaluation: few steps, one start, the last iterate, and the network
in evaluation mode, whose weights change after each use.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, get_args

import torch
from torch import Tensor, nn

from common.checks.settings import check_count, check_length, check_not_negative, check_one_of, check_optional
from common.noise import Noise
from common.robustness.classifiers import Classifier, deployed
from common.robustness.losses import cross_entropy, kl
from common.robustness.threats.norm_ball import ThreatModel, require_norm_ball
from common.robustness.threats.step_size import check_step_size
from common.units import parse_number

Start = Literal["near", "random"]
Inner = Literal["kl", "cross_entropy"]


@dataclass(frozen=True)
class InnerMaximum:
    """Projected gradient ascent on a loss of the image within a threat model: the last iterate of ``steps`` steps.

    It starts ``"near"`` the image, at x + 0.001 N(0, I), since the gradient of a divergence from x is zero at x
    (TRADES, arXiv 1901.08573), or at a ``"random"`` point of the ball (Madry et al., arXiv 1706.06083).

    ``step_size`` is in pixels, along the direction of the norm (``ThreatModel.ascend``). By default the steps add up to
    2.5 eps; to 5 eps in L2 from a random start, which lies at right angles to the gradient; and to 20 eps in L1, the
    way to a corner of its ball. On a linear loss over 3x32x32 pixels, ten steps reach at least 99.6 % of the maximum.

    Raises ``ValueError`` for a threat other than a norm ball, and for numbers and names out of range.
    """

    threat: ThreatModel
    steps: int = 10
    step_size: float | str | None = None
    start: Start = "near"

    def __post_init__(self) -> None:
        require_norm_ball(self.threat, "adversarial training")
        check_count("steps of the inner maximum", self.steps)
        check_optional(check_length, "step_size", self.step_size)
        check_one_of("start", self.start, get_args(Start))
        if self.step_size is not None:
            check_step_size(self.length, self.threat, self.steps)

    @property
    def length(self) -> float:
        """Size of a step in pixels."""
        if self.step_size is not None:
            return parse_number(self.step_size)
        from_surface = self.threat.norm == 2 and self.start == "random"
        path = 20.0 if self.threat.norm == 1 else 5.0 if from_surface else 2.5
        return path * self.threat.eps / self.steps

    def __call__(
        self, network: nn.Module, loss: Callable[[Tensor], Tensor], image: Tensor, noise: Noise, step: int = 0
    ) -> Tensor:
        """Images (B,C,H,W) in pixels with a high ``loss``, (B,C,H,W) -> (B,); ``step`` selects the noise of the start.

        ``network``, on which the loss depends, is in evaluation mode and without parameter gradients meanwhile.
        """
        if self.start == "near":
            adv = self.threat.project(image, image + 1e-3 * noise.normal(step, image.shape[1:], image.dtype))
        else:
            adv = self.threat.random_start(image, noise, step)
        with deployed(network), torch.enable_grad():
            for _ in range(self.steps):
                adv.requires_grad_()
                (gradient,) = torch.autograd.grad(loss(adv).sum(), adv)
                adv = self.threat.project(image, self.threat.ascend(adv.detach(), gradient, self.length))
        return adv


class TrainingLoss(NamedTuple):
    """Per image: the training ``loss`` (B,), and the ``logits`` (B,K) whose accuracy is logged."""

    loss: Tensor
    logits: Tensor


class Objective(Protocol):
    """Training objective of a robust classifier within ``threat``. ``noise`` belongs to the epoch."""

    threat: ThreatModel

    def __call__(self, classifier: Classifier, image: Tensor, label: Tensor, noise: Noise) -> TrainingLoss:
        """Losses of images (B,C,H,W) in pixels."""
        ...


class PGDTraining:
    """Cross-entropy on adversarial images (PGD-AT: Madry et al., arXiv 1706.06083)::

        max_{||δ|| <= eps} CE(p(. | x + δ), y)

    The inner maximisation has a random start and the classifier in evaluation mode; the logits are those of x + δ.
    """

    def __init__(self, threat: ThreatModel, steps: int = 10, step_size: float | str | None = None) -> None:
        self.threat = threat
        self.inner = InnerMaximum(threat, steps, step_size, start="random")

    def __call__(self, classifier: Classifier, image: Tensor, label: Tensor, noise: Noise) -> TrainingLoss:
        """Losses of images (B,C,H,W) in pixels, with the logits of the adversarial images."""
        adv = self.inner(classifier, lambda at: cross_entropy(classifier(at), label), image, noise)
        logits = classifier(adv)
        return TrainingLoss(cross_entropy(logits, label), logits)


class TradesTraining:
    """TRADES (Zhang et al., arXiv 1901.08573): cross-entropy on clean images, with a penalty on unstable predictions::

        CE(p(. | x), y) + weight * max_{||δ|| <= eps} KL(p(. | x) || p(. | x + δ))

    The inner maximisation starts at x + 0.001 N(0, I) with the classifier in evaluation mode. It maximises the
    divergence or, with ``inner="cross_entropy"``, the cross-entropy of y. The logits are those of x.
    """

    def __init__(
        self,
        threat: ThreatModel,
        weight: float = 6.0,
        steps: int = 10,
        step_size: float | str | None = None,
        inner: Inner = "kl",
    ) -> None:
        check_trades(weight, inner)
        self.threat, self.weight, self.loss = threat, weight, inner
        self.inner = InnerMaximum(threat, steps, step_size)

    def __call__(self, classifier: Classifier, image: Tensor, label: Tensor, noise: Noise) -> TrainingLoss:
        """Losses of images (B,C,H,W) in pixels, with their logits."""
        with deployed(classifier), torch.no_grad():
            reference = classifier(image)
        target = reference if self.loss == "kl" else label
        adv = self.inner(classifier, lambda at: inner_loss(self.loss)(classifier(at), target), image, noise)
        logits = classifier(image)
        return TrainingLoss(cross_entropy(logits, label) + self.weight * kl(classifier(adv), logits), logits)


def inner_loss(name: Inner) -> Callable[[Tensor, Tensor], Tensor]:
    """Loss of the inner maximisation of TRADES: of logits (B,K) and the reference logits (B,K) or the label (B,)."""
    return kl if name == "kl" else cross_entropy


def check_trades(weight: float, inner: str) -> None:
    """``ValueError`` for a weight that is negative or not finite, and for an unknown inner loss."""
    check_not_negative("weight", weight)
    check_one_of("inner", inner, get_args(Inner))
