"""Projected gradient descent with expectation over transformation."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from common.noise import Noise
from common.robustness.attacks import Attack, attacking
from common.robustness.classifiers import Classifier
from common.robustness.losses import Loss, by_name
from common.robustness.threat import ThreatModel
from common.units import number


@dataclass(frozen=True)
class Ascent:
    """What PGD found: the best point ``adv`` (B,C,H,W), its EOT-mean ``loss`` (B,), and ``dead`` (B,), the share of
    the image's steps on which the gradient was zero or not finite: near one, it points at a masked gradient."""

    adv: Tensor
    loss: Tensor
    dead: Tensor


@dataclass(frozen=True)
class PGD(Attack):
    """Projected gradient ascent on the EOT-mean loss: ``x <- project(x + step_size * direction(g))``,

        g = grad_x  1/n sum_j loss(classifier(x, noise_j), label),      n = eot,

    with fresh draws at every step (Madry et al., arXiv 1706.06083; Athalye et al., arXiv 1707.07397). All B*n rows
    are one forward and one backward pass, or several of at most ``chunk`` rows each. The direction is the steepest
    one of the threat's norm (``ThreatModel.ascend``).

    Returns, per image, the iterate with the highest EOT-mean loss among all steps and restarts: the loss at the
    very point and draws whose gradient was taken, the last iterate included. This is a maximum over noisy means
    and says nothing about success: predictions are the evaluator's, on fresh draws. The same images with the same
    noise rows give the same result in any batch, up to float rounding inside the network.

    ``step_size`` is in pixels. By default the steps add up to 2.5 eps for L-inf and to 5 eps for L2 and L1, whose
    random start lies near the surface of the ball at right angles to the gradient: on the way round to a linear
    optimum, 2.5 eps leave ``1 - tanh(2.5) = 1.3 %`` to go. ``loss`` is a name in ``losses.LOSSES`` or a function of
    (logits, label). A deterministic classifier is asked once per step, whatever ``eot`` says.
    """

    steps: int = 20
    step_size: float | str | None = None
    eot: int = 1
    restarts: int = 1
    loss: str | Loss = "cross_entropy"
    random_start: bool = True
    chunk: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("steps", self.steps), ("eot", self.eot), ("restarts", self.restarts)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1; got {value}")
        if self.chunk is not None and self.chunk < 1:
            raise ValueError(f"chunk must be at least one row, or None for no limit; got {self.chunk}")
        if self.step_size is not None and not number(self.step_size) > 0:
            raise ValueError(f"step_size must be in pixel units and above 0; got {self.step_size}")
        self._loss_function()

    def __call__(
        self, classifier: Classifier, image: Tensor, label: Tensor, threat: ThreatModel, noise: Noise
    ) -> Tensor:
        """``ascend(...).adv``."""
        return self.ascend(classifier, image, label, threat, noise).adv

    def ascend(self, classifier: Classifier, image: Tensor, label: Tensor, threat: ThreatModel, noise: Noise) -> Ascent:
        """The attack with its diagnostics. ``RuntimeError`` where the classifier gives no gradient at all, or a loss
        that is never finite: either would otherwise return the clean image and pass for robustness."""
        size = self._path(threat) / self.steps if self.step_size is None else number(self.step_size)
        eot = self.eot if classifier.randomised else 1
        best, best_loss = image.clone(), image.new_full((len(image),), -torch.inf)
        dead = torch.zeros_like(best_loss)
        with attacking(classifier, image, label, noise):
            for restart in range(self.restarts):
                adv = threat.random_start(image, noise.stream("start"), restart) if self.random_start else image
                for step in range(self.steps + 1):
                    last = step == self.steps
                    draws = noise.stream(f"restart {restart} step {step}").draws(eot)
                    loss, gradient = self._probe(classifier, adv, label, draws, differentiate=not last)
                    better = loss > best_loss
                    best, best_loss = torch.where(_like(better, adv), adv, best), torch.where(better, loss, best_loss)
                    if not last:
                        alive = _alive(gradient)
                        dead += ~alive
                        gradient = torch.where(_like(alive, gradient), gradient, 0.0)
                        adv = threat.project(image, threat.ascend(adv, gradient, size))
        if bool((best_loss == -torch.inf).any()):
            count = int((best_loss == -torch.inf).sum())
            raise RuntimeError(f"the loss of {count} of {len(image)} images was never finite. Check the logits.")
        return Ascent(best, best_loss, dead / (self.restarts * self.steps))

    def _probe(
        self, classifier: Classifier, adv: Tensor, label: Tensor, draws: Noise, differentiate: bool
    ) -> tuple[Tensor, Tensor]:
        """EOT-mean loss (B,) at ``adv`` and its gradient (zero if not wanted); draws: B*n rows, image-major."""
        eot = len(draws) // len(adv)
        points, labels = adv.detach().repeat_interleave(eot, 0), label.repeat_interleave(eot)
        losses, gradients = [], []
        for start in range(0, len(points), self.chunk or len(points)):
            rows = slice(start, start + (self.chunk or len(points)))
            x = points[rows].requires_grad_(differentiate)
            with torch.set_grad_enabled(differentiate):
                loss = self._loss_function()(classifier(x, draws.rows(rows)), labels[rows])
            losses.append(loss.detach())
            gradients.append(_gradient(loss, x) if differentiate else torch.zeros_like(x))
        return torch.cat(losses).view(-1, eot).mean(1), torch.cat(gradients).view(-1, eot, *adv.shape[1:]).mean(1)

    def _path(self, threat: ThreatModel) -> float:
        return (2.5 if threat.norm == math.inf else 5.0) * threat.eps

    def _loss_function(self) -> Loss:
        return by_name(self.loss) if isinstance(self.loss, str) else self.loss


def _gradient(loss: Tensor, x: Tensor) -> Tensor:
    """Row-wise gradient: row b of ``x`` moves loss b alone."""
    found = torch.autograd.grad(loss.sum(), x, allow_unused=True)[0] if loss.requires_grad else None
    if found is None:
        raise RuntimeError(
            "the classifier's logits do not depend differentiably on the image: no gradient reaches it. "
            "Remove no_grad and detach on the way, or use a gradient-free attack."
        )
    return found.detach()


def _alive(gradient: Tensor) -> Tensor:
    """(B,) bool: somewhere non-zero and everywhere finite."""
    largest = gradient.flatten(1).abs().amax(1)
    return (largest > 0) & (largest < torch.inf)


def _like(mask: Tensor, image: Tensor) -> Tensor:
    return mask.view(-1, *(1,) * (image.ndim - 1))
