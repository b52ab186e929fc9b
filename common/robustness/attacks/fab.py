"""FAB: the nearest misclassified image, along the boundary between two classes."""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from common.noise import Noise
from common.robustness.attacks.attack import Attack, AttackResult, attacking
from common.robustness.attacks.eot import EOTEstimate, EOTLoss, check_counts, is_usable, most_likely_classes, per_image
from common.robustness.classifiers import Classifier
from common.robustness.losses import margin, targeted_margin
from common.robustness.threats.norm_ball import Threat, ThreatModel, require_norm_ball

_BIAS = 0.1  # largest weight of the way from the clean image
_OVERSHOOT = 1.05
_BACK = 0.9


@dataclass(frozen=True)
class FAB(Attack):
    """Targeted Fast Adaptive Boundary attack (Croce & Hein, arXiv 1907.02044) in L-inf, L2 and L1.

    Towards each of the ``targets`` most likely other classes t of the clean image, from the image x_0 on: with
    ``f = z_t - z_y`` linear around x, P the point of ``{f = 0}`` in the box that is nearest in the norm (`to_plane`)
    and d and d_0 the distances of x and x_0 from theirs,

        x <- (1 - a) (x + 1.05 (P(x) - x)) + a (x_0 + 1.05 (P(x_0) - x_0)),    a = min(d / (d + d_0), 0.1).

    A misclassified x is kept if it is nearer than the nearest so far, and pulled back: ``x <- x_0 + 0.9 (x - x_0)``.
    This needs no eps. What is returned is the nearest misclassified point, projected on the ball, where it may be
    misclassified no more; of an image without any, where the last target's steps ended, projected too. With
    ``early_stop`` an image is done once it has one in the ball, if the classifier is deterministic.

    Against a randomised classifier f, and the margin by which a point counts as misclassified, are means over ``eot``
    draws. Success and distance there are a matter of luck: it is made for deterministic ones.
    """

    steps: int = 100
    targets: int = 9
    eot: int = 1
    early_stop: bool = False
    chunk: int | None = None

    def __post_init__(self) -> None:
        check_counts(self.chunk, steps=self.steps, targets=self.targets, eot=self.eot)

    def check(self, threat: Threat) -> None:
        require_norm_ball(threat, "FAB")

    def search(
        self, classifier: Classifier, image: Tensor, label: Tensor, threat: Threat, noise: Noise
    ) -> AttackResult:
        ball = require_norm_ball(threat, "FAB")
        certain = not classifier.randomised
        oracle = EOTLoss(classifier, label, noise, self.eot, self.chunk)
        with attacking(classifier, image, label, noise):
            hunt = _Hunt(ball, image, oracle, ball.eps if self.early_stop and certain else 0.0)
            clean = oracle(hunt.active, image, "clean", margin)
            hunt.note(hunt.active, image, clean)
            for number, target in enumerate(most_likely_classes(clean.logits, label, self.targets)):
                rows = hunt.active
                x = image[rows]
                for step in range(self.steps):
                    if not len(rows):
                        break
                    name = f"target {number} step {step}"
                    plane = oracle(rows, x, name, targeted_margin, True, target[rows])
                    x = _approached(ball, image[rows], x, plane)
                    wrong = hunt.note(rows, x, oracle(rows, x, f"{name} arrived", margin), calls=2)
                    x = torch.where(per_image(wrong, x), image[rows] + _BACK * (x - image[rows]), x)
                    going = hunt.distance[rows] > hunt.enough
                    rows, x = rows[going], x[going]
        return hunt.found()


class _Hunt:
    """The nearest misclassified point of each image so far; an image is done when it has one within ``enough``."""

    def __init__(self, ball: ThreatModel, image: Tensor, oracle: EOTLoss, enough: float) -> None:
        self.ball, self.image, self.enough, self.eot = ball, image, enough, oracle.eot
        self.nearest, self.loss = image.clone(), torch.zeros_like(image[:, 0, 0, 0])
        self.distance = torch.full_like(self.loss, torch.inf, dtype=torch.float64)
        self.queries = torch.zeros_like(oracle.label)

    @property
    def active(self) -> Tensor:
        """Indices (A,) of the images that the hunt goes on for."""
        return (self.distance > self.enough).nonzero().flatten()

    def note(self, rows: Tensor, x: Tensor, answers: EOTEstimate, calls: int = 1) -> Tensor:
        """Takes in the answers about x (A,C,H,W), images ``rows``; which are misclassified, (A,)."""
        wrong = answers.margin > 0
        distance = self.ball.distance(self.image[rows], x)
        none, nearer = self.distance[rows] == torch.inf, distance < self.distance[rows]
        taken = (wrong & nearer) | (~wrong & none)
        self.nearest[rows] = torch.where(per_image(taken, x), x, self.nearest[rows])
        self.distance[rows] = torch.where(wrong & nearer, distance, self.distance[rows])
        self.queries[rows] += calls * self.eot
        return wrong

    def found(self) -> AttackResult:
        adv = self.ball.project(self.image, self.nearest)
        return AttackResult(adv, queries=self.queries, broken=self.distance <= self.ball.eps)


def _approached(ball: ThreatModel, image: Tensor, x: Tensor, plane: EOTEstimate) -> Tensor:
    """The next point (A,C,H,W): towards the plane where the linearised difference of logits is zero."""
    gradient = cast(Tensor, plane.gradient)
    gradient = torch.where(per_image(is_usable(gradient), x), gradient, 0.0)
    start, here, w = (each.flatten(1).double() for each in (image, x, gradient))
    gap = -plane.loss.double()
    step = to_plane(here, w, gap, ball.norm)
    first = to_plane(start, w, gap + (w * (here - start)).sum(1), ball.norm)
    lengths = [torch.linalg.vector_norm(each, ball.norm, dim=1) for each in (step, first)]
    bias = (lengths[0] / (lengths[0] + lengths[1]).clamp(min=1e-12)).clamp(max=_BIAS)[:, None]
    moved: Tensor = (1 - bias) * (here + _OVERSHOOT * step) + bias * (start + _OVERSHOOT * first)
    return moved.clamp(0, 1).view_as(x).to(x.dtype)


def to_plane(x: Tensor, w: Tensor, gap: Tensor, norm: float) -> Tensor:
    """The shortest d (B,D) in the norm with ``w.d = gap`` and x + d in [0,1]^D; x, w (B,D), gap (B,), float64.

    Coordinate i helps by |w_i| a unit and has ``room`` r_i. L1 spends on the dearest first. For L2 and L-inf
    ``|d_i| = min(s a_i, r_i)`` with a = |w| or 1, and the scale s follows exactly from sorting ``r / a``, where
    coordinates reach the box one after the other. Where the plane is out of reach, d goes all the way to the corner.
    """
    towards = w.sign() * gap.sign()[:, None]
    slope, missing = w.abs(), gap.abs()[:, None]
    room = torch.where(towards > 0, 1 - x, x) * (towards != 0)
    if norm == 1:
        order = slope.argsort(dim=1, descending=True)
        cost, space = slope.gather(1, order), room.gather(1, order)
        before = (cost * space).cumsum(1) - cost * space
        spent = ((missing - before) / cost.clamp(min=1e-300)).clamp(min=0).minimum(space)
        return towards * torch.zeros_like(x).scatter(1, order, spent)
    pace = slope if norm == 2 else torch.ones_like(slope)
    full = torch.where(room > 0, room / pace.clamp(min=1e-300), 0.0)
    order = full.argsort(dim=1)
    reached, gain, speed = (each.gather(1, order) for each in (full, slope * room, slope * pace))
    done = gain.cumsum(1) - gain
    left = speed.flip(1).cumsum(1).flip(1)
    scale = ((missing - done) / left.clamp(min=1e-300)).clamp(min=0)
    place = (scale > reached).sum(1, keepdim=True).clamp(max=x.shape[1] - 1)
    return towards * (scale.gather(1, place) * pace).minimum(room)
