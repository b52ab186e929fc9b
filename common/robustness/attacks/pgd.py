"""Projected gradient descent with expectation over transformation."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from common.checks.settings import check_flag, check_length, check_one_of, check_optional
from common.noise import Noise
from common.robustness.attacks.attack import Attack, AttackResult, attacking, is_empty
from common.robustness.attacks.best_iterates import BestIterates
from common.robustness.attacks.eot import EOTLoss, check_counts, usable
from common.robustness.classifiers import Classifier
from common.robustness.losses import Loss, as_loss
from common.robustness.threats.norm_ball import ThreatModel, require_norm_ball
from common.robustness.threats.step_size import check_step_size
from common.robustness.threats.threat import Threat
from common.units import parse_number

Direction = Literal["steepest", "sign"]

PATHS = {math.inf: 2.5, 2.0: 5.0, 1.0: 20.0}  # default sum of all steps, in eps


@dataclass(frozen=True)
class PGD(Attack):
    """Projected gradient ascent on the EOT-mean loss: ``x <- project(x + step_size * direction(g))``,

        g = grad_x  1/n sum_j loss(classifier(x, noise_j), label),      n = eot,

    with fresh draws at every step (Madry et al., arXiv 1706.06083; Athalye et al., arXiv 1707.07397). All B*n rows
    are one forward and one backward pass, or several of at most ``chunk`` rows each. The direction is the steepest
    one of the threat's norm (``ThreatModel.ascend``), or the sign of g.

    Returns, per image, the iterate with the highest EOT-mean loss among all steps and restarts, the last iterate
    included: the loss at the very point and draws whose gradient was taken. This maximum over noisy means is no
    estimate of success: predictions are the evaluator's, on fresh draws. The same images with the same noise rows give
    the same result in any batch, up to float rounding inside the network.

    Restarts run in turn: an image that is done by then saves the rest, and notes let a killed process go on after the
    last one. In one batch they would gain little: on a CPU thread four passes of 16 images take 1.03 times one of 64
    (median of 3 pairs, 0.89 to 1.06; DDPM++ of 1.8 M parameters with its gradient). A GPU fills with more images or
    draws per batch.

    A deterministic classifier is evaluated once per step; ``eot`` has no effect. With ``early_stop`` an image is done
    at its first misclassified iterate, which is then returned. Against a randomised one no success is certain, and none
    ends the search.

    ``step_size`` is in pixels. By default the steps add up to 2.5 eps for L-inf and to 5 eps for L2, whose random start
    lies near the surface of the ball at right angles to the gradient: on the way round to a linear optimum, 2.5 eps
    leave ``1 - tanh(2.5) = 1.3 %`` to go; for L1 to 20 eps, the way to a corner of its ball. A step along the sign has
    the same length in the norm. ``loss`` is a name in ``losses.LOSSES`` or a function of (logits, label).

    Raises ``RuntimeError`` where the classifier gives no gradient at all, or a loss that is never finite: either would
    otherwise return the clean image and overstate robustness; ``ValueError`` for a step beyond the pixel range. A
    step longer than eps is warned of (`check_step_size`).
    """

    steps: int = 20
    step_size: float | str | None = None
    eot: int = 1
    restarts: int = 1
    loss: str | Loss = "cross_entropy"
    random_start: bool = True
    early_stop: bool = False
    chunk: int | None = None
    direction: Direction = "steepest"

    threat_kind = ThreatModel

    def __post_init__(self) -> None:
        check_counts(self.chunk, steps=self.steps, eot=self.eot, restarts=self.restarts)
        check_one_of("direction", self.direction, get_args(Direction))
        check_optional(check_length, "step_size", self.step_size)
        check_flag("random_start", self.random_start)
        check_flag("early_stop", self.early_stop)
        as_loss(self.loss)

    def check(self, threat: Threat) -> None:
        ball = require_norm_ball(threat, type(self).__name__)
        if self.step_size is not None:
            check_step_size(parse_number(self.step_size), ball, self.steps, self.direction == "sign")

    def search(
        self, classifier: Classifier, image: Tensor, label: Tensor, threat: Threat, noise: Noise
    ) -> AttackResult:
        self.check(threat)
        ball = require_norm_ball(threat, type(self).__name__)
        if is_empty(image, label, noise):
            return AttackResult.empty(image)
        size = self._default_size(ball, image[0].numel()) if self.step_size is None else parse_number(self.step_size)
        eot, loss = EOTLoss(classifier, label, noise, self.eot, self.chunk), as_loss(self.loss)
        best = BestIterates(image, self.restarts * (self.steps + 1), eot.deterministic, self.early_stop)
        best.resume(noise)
        with attacking(classifier, image, label, noise):
            for restart in range(self.restarts):
                rows = best.begin(restart)
                adv = image[rows]
                if self.random_start:
                    adv = ball.random_start(adv, noise.rows(rows).stream("start"), restart)
                for step in range(self.steps + 1):
                    if not len(rows):
                        break
                    estimate = eot(adv, loss, f"restart {restart} step {step}", rows, step < self.steps)
                    going = best.update(rows, adv, estimate)
                    if estimate.gradient is not None:
                        adv = ball.project(image[rows], self._ascend(ball, adv, usable(estimate.gradient), size))
                    if best.drops:
                        rows, adv = rows[going], adv[going]
                best.end()
        return best.result()

    def _default_size(self, ball: ThreatModel, dimension: int) -> float:
        """Step size that makes the steps add up to the norm's default path."""
        length = PATHS[ball.norm] * ball.eps / self.steps
        return length / dimension ** (1 / ball.norm) if self.direction == "sign" else length

    def _ascend(self, ball: ThreatModel, adv: Tensor, gradient: Tensor, size: float) -> Tensor:
        return adv + size * gradient.sign() if self.direction == "sign" else ball.ascend(adv, gradient, size)
