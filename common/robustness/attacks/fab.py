"""FAB: the nearest misclassified image, along the boundary between two classes."""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from common.checks.settings import check_flag
from common.noise import Noise
from common.robustness.attacks.attack import Attack, AttackResult, attacking, is_empty
from common.robustness.attacks.eot import EOTEstimate, EOTLoss, check_counts, most_likely_classes, per_image, usable
from common.robustness.attacks.hyperplane import project_on_hyperplane
from common.robustness.classifiers import Classifier
from common.robustness.losses import margin, targeted_margin
from common.robustness.threats.norm_ball import ThreatModel, require_norm_ball
from common.robustness.threats.threat import Threat

_BIAS = 0.1  # largest weight of the direction from the clean image
_OVERSHOOT = 1.05
_BACK = 0.9


@dataclass(frozen=True)
class FAB(Attack):
    """Targeted Fast Adaptive Boundary attack (Croce & Hein, arXiv 1907.02044) in L-inf, L2 and L1.

    Towards each of the ``targets`` most likely other classes t of the clean image, starting from the image x_0: with
    ``f = z_t - z_y`` linear around x, P the point of ``{f = 0}`` in the box that is nearest in the norm
    (`project_on_hyperplane`), and d and d_0 the distances of x and x_0 from theirs,

        x <- (1 - a) (x + 1.05 (P(x) - x)) + a (x_0 + 1.05 (P(x_0) - x_0)),    a = min(d / (d + d_0), 0.1).

    A misclassified x is kept if it is nearer than the nearest so far, and pulled back: ``x <- x_0 + 0.9 (x - x_0)``.
    The search does not depend on eps. Returns the nearest misclassified point, projected on the ball, where it may be
    classified correctly; of an image without any, the last point of the last target, projected too. With ``early_stop``
    an image is done once it has a misclassified point in the ball, if the classifier is deterministic.

    Against a randomised classifier f, and the margin by which a point counts as misclassified, are means over ``eot``
    draws, and success and distance are random. The attack is made for deterministic classifiers.
    """

    steps: int = 100
    targets: int = 9
    eot: int = 1
    early_stop: bool = False
    chunk: int | None = None

    threat_kind = ThreatModel

    def __post_init__(self) -> None:
        check_counts(self.chunk, steps=self.steps, targets=self.targets, eot=self.eot)
        check_flag("early_stop", self.early_stop)

    def search(
        self, classifier: Classifier, image: Tensor, label: Tensor, threat: Threat, noise: Noise
    ) -> AttackResult:
        ball = require_norm_ball(threat, type(self).__name__)
        if is_empty(image, label, noise):
            return AttackResult.empty(image)
        eot = EOTLoss(classifier, label, noise, self.eot, self.chunk)
        with attacking(classifier, image, label, noise):
            nearest = _NearestPoints(ball, image, ball.eps if self.early_stop and eot.deterministic else 0.0)
            clean = eot(image, margin, "clean", differentiate=False)
            nearest.update(nearest.active, image, clean)
            for number, target in enumerate(most_likely_classes(clean.logits, label, self.targets)):
                rows = nearest.active
                x = image[rows]
                for step in range(self.steps):
                    if not len(rows):
                        break
                    name = f"target {number} step {step}"
                    boundary = eot(x, targeted_margin, name, rows, target=target[rows])
                    x = _approach(ball, image[rows], x, boundary)
                    reached = eot(x, margin, f"{name} arrived", rows, differentiate=False)
                    wrong = nearest.update(rows, x, reached, queries=boundary.draws + reached.draws)
                    x = torch.where(per_image(wrong, x), image[rows] + _BACK * (x - image[rows]), x)
                    if nearest.enough:
                        going = nearest.distance[rows] > nearest.enough
                        rows, x = rows[going], x[going]
        return nearest.result()


class _NearestPoints:
    """The nearest misclassified point of each image so far; an image is done when it has one within ``enough``."""

    def __init__(self, ball: ThreatModel, image: Tensor, enough: float) -> None:
        self.ball, self.image, self.enough = ball, image, enough
        self.points, self.queries = image.clone(), torch.zeros(len(image), dtype=torch.int64, device=image.device)
        self.distance = torch.full_like(self.queries, torch.inf, dtype=torch.float64)

    @property
    def active(self) -> Tensor:
        """Indices (A,) of the images that are not done."""
        return (self.distance > self.enough).nonzero().flatten()

    def update(self, rows: Tensor, x: Tensor, estimate: EOTEstimate, queries: int | None = None) -> Tensor:
        """Add the points x (A,C,H,W) of the images ``rows``; returns which are misclassified, (A,) bool."""
        wrong = estimate.margin > 0
        distance = self.ball.distance(self.image[rows], x)
        none, nearer = self.distance[rows] == torch.inf, distance < self.distance[rows]
        taken = (wrong & nearer) | (~wrong & none)
        self.points[rows] = torch.where(per_image(taken, x), x, self.points[rows])
        self.distance[rows] = torch.where(wrong & nearer, distance, self.distance[rows])
        self.queries[rows] += estimate.draws if queries is None else queries
        return wrong

    def result(self) -> AttackResult:
        adv = self.ball.project(self.image, self.points)
        return AttackResult(adv, queries=self.queries, broken=self.distance <= self.ball.eps)


def _approach(ball: ThreatModel, image: Tensor, x: Tensor, boundary: EOTEstimate) -> Tensor:
    """The next point (A,C,H,W): towards the hyperplane where the linearised difference of logits is zero."""
    gradient = usable(cast(Tensor, boundary.gradient))
    start, here, w = (each.flatten(1).double() for each in (image, x, gradient))
    gap = -boundary.loss.double()
    step = project_on_hyperplane(here, w, gap, ball.norm)
    first = project_on_hyperplane(start, w, gap + (w * (here - start)).sum(1), ball.norm)
    lengths = [torch.linalg.vector_norm(each, ball.norm, dim=1) for each in (step, first)]
    bias = (lengths[0] / (lengths[0] + lengths[1]).clamp(min=1e-12)).clamp(max=_BIAS)[:, None]
    moved: Tensor = (1 - bias) * (here + _OVERSHOOT * step) + bias * (start + _OVERSHOOT * first)
    return moved.clamp(0, 1).view_as(x).to(x.dtype)
