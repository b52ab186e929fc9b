"""Square attack: a random search by logits alone."""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from common.checks.settings import check_flag, check_number
from common.noise import Noise
from common.robustness.attacks.attack import Attack, AttackResult, attacking, is_empty
from common.robustness.attacks.best_iterates import BestIterates
from common.robustness.attacks.eot import EOTEstimate, EOTLoss, check_counts
from common.robustness.attacks.square_proposals import SquareProposals
from common.robustness.classifiers import Classifier
from common.robustness.losses import margin
from common.robustness.threats.norm_ball import ThreatModel, require_norm_ball
from common.robustness.threats.threat import Threat

_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of 10,000 proposals
_CURVE = 100  # largest number of points of a stored curve


@dataclass(frozen=True)
class Square(Attack):
    """Square attack (Andriushchenko et al., arXiv 1912.00049) in L-inf, L2 and L1, without gradients.

    From a random start, ``queries - 1`` proposals each change a window of the perturbation (`SquareProposals`) and are
    accepted if the margin, ``max_{k != y} z_k - z_y``, grows. The window covers the share ``window`` of the pixels at
    first and is halved after 0.1, 0.5, 2, 5, 10, 20, 40, 60 and 80 % of the proposals. In L2 and L1, where it holds a
    bump, it is at least 3 pixels wide for the first fifth of the proposals and 2 until three fifths are done.

    A deterministic classifier is evaluated once per proposal. Against a randomised one the margin is a mean over
    ``eot`` draws; every proposal has fresh draws, on which the current point is evaluated again, and is accepted if its
    mean margin is higher than that. So no point is kept for an outlier among its draws. This doubles the
    cost, to ``(2 queries - 1) eot`` forward passes per image. Returns the point where the search ends, with its latest
    margin.

    With ``early_stop`` an image is done once it is misclassified, if the classifier is deterministic. The proposals of
    an image come from its own noise, so that results do not depend on the batch. ``curve`` has at most 100 points,
    evenly spaced.
    """

    queries: int = 5000
    eot: int = 1
    window: float = 0.8
    early_stop: bool = False
    chunk: int | None = None

    white_box = False
    threat_kind = ThreatModel

    def __post_init__(self) -> None:
        check_counts(self.chunk, queries=self.queries, eot=self.eot)
        check_number("window, a share of the pixels,", self.window, above=0, at_most=1)
        check_flag("early_stop", self.early_stop)

    def search(
        self, classifier: Classifier, image: Tensor, label: Tensor, threat: Threat, noise: Noise
    ) -> AttackResult:
        ball = require_norm_ball(threat, type(self).__name__)
        if is_empty(image, label, noise):
            return AttackResult.empty(image)
        eot = EOTLoss(classifier, label, noise, self.eot, self.chunk)
        rounds = self.queries if eot.deterministic else 2 * self.queries - 1
        best = BestIterates(image, rounds, eot.deterministic, self.early_stop)
        proposals = SquareProposals(ball, image, noise)
        with attacking(classifier, image, label, noise), torch.no_grad():
            points = proposals.first()
            best.update(best.active, points, eot(points, margin, "query 0", differentiate=False))
            for query in range(1, self.queries):
                rows, name = best.active, f"query {query}"
                if not len(rows):
                    break
                points = proposals.next(rows, best.adv[rows], query, self._side(query, image, ball))
                if eot.deterministic:
                    estimate = eot(points, margin, name, rows, differentiate=False)
                else:
                    both = torch.cat((best.adv[rows], points))
                    current, estimate = _halves(eot(both, margin, name, rows.repeat(2), differentiate=False))
                    best.update(rows, best.adv[rows], current, renew=True)
                best.update(rows, points, estimate)
        result = best.result(white_box=False)
        return replace(result, curve=_thinned(result.curve))

    def _side(self, query: int, image: Tensor, ball: ThreatModel) -> int:
        """Width of the window in pixels."""
        height, width = image.shape[2:]
        halvings = sum(query * 10_000 > after * self.queries for after in _HALVINGS)
        side = round(math.sqrt(self.window / 2**halvings * height * width))
        wide = 1 if ball.norm == math.inf or 5 * query >= 3 * self.queries else 2 if 5 * query >= self.queries else 3
        return min(max(side, wide), height, width)


def _halves(estimate: EOTEstimate) -> tuple[EOTEstimate, EOTEstimate]:
    """An estimate at two points of each image, split."""
    pairs: dict[str, Any] = {
        name: value.chunk(2) for name, value in vars(estimate).items() if isinstance(value, Tensor)
    }
    first, second = ({name: pair[side] for name, pair in pairs.items()} for side in (0, 1))
    return replace(estimate, **first), replace(estimate, **second)


def _thinned(curve: Tensor | None) -> Tensor | None:
    if curve is None or curve.shape[1] <= _CURVE:
        return curve
    return curve[:, torch.linspace(0, curve.shape[1] - 1, _CURVE).long()]
