"""Square: a random search that asks for scores alone."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from common.noise import Noise
from common.robustness.attacks.attack import Attack, AttackResult, attacking
from common.robustness.attacks.best_iterates import BestIterates
from common.robustness.attacks.eot import EOTEstimate, EOTLoss, check_counts
from common.robustness.attacks.square_proposals import SquareProposals
from common.robustness.classifiers import Classifier
from common.robustness.losses import margin
from common.robustness.threats.norm_ball import Threat, ThreatModel, require_norm_ball

_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of 10,000 proposals
_CURVE = 100  # points that are kept of a curve


@dataclass(frozen=True)
class Square(Attack):
    """Square attack (Andriushchenko et al., arXiv 1912.00049) in L-inf, L2 and L1: no gradient is asked for.

    From a first guess on, ``queries - 1`` proposals change a window of the perturbation (`SquareProposals`) and are
    accepted if the margin, ``max_{k != y} z_k - z_y``, grows. The window covers the share ``window`` of the pixels at
    first and is halved after 0.1, 0.5, 2, 5, 10, 20, 40, 60 and 80 % of the proposals. In L2 and L1, where it holds
    a bump, it is at least 3 pixels wide for the first fifth of the proposals and 2 until three fifths are done.

    A deterministic classifier is asked once about each. Against a randomised one the margin is a mean over ``eot``
    draws, and the rule is: for every proposal fresh draws, on which the current point is asked again, and the proposal
    is accepted if its mean margin is the higher one there. No point is held on to for its luck. This doubles the cost,
    to ``(2 queries - 1) eot`` answers per image. Returned is the point where the search ends, with its latest margin.

    With ``early_stop`` an image is done once it is misclassified, if the classifier is deterministic. Each image's
    proposals come from its own noise, so that results do not depend on the batch. ``curve`` has at most 100 points,
    evenly spaced.
    """

    queries: int = 5000
    eot: int = 1
    window: float = 0.8
    early_stop: bool = False
    chunk: int | None = None
    white_box = False

    def __post_init__(self) -> None:
        check_counts(self.chunk, queries=self.queries, eot=self.eot)
        if not 0 < self.window <= 1:
            raise ValueError(f"window must be a share of the pixels, 0 < window <= 1; got {self.window}")

    def check(self, threat: Threat) -> None:
        require_norm_ball(threat, "Square")

    def search(
        self, classifier: Classifier, image: Tensor, label: Tensor, threat: Threat, noise: Noise
    ) -> AttackResult:
        ball = require_norm_ball(threat, "Square")
        certain = not classifier.randomised
        oracle = EOTLoss(classifier, label, noise, self.eot, self.chunk)
        rounds = self.queries if certain else 2 * self.queries - 1
        progress = BestIterates(image, rounds, self.early_stop and certain, certain)
        proposals = SquareProposals(ball, image, noise)
        with attacking(classifier, image, label, noise), torch.no_grad():
            rows, points = progress.active, proposals.first()
            progress.note(rows, points, oracle(rows, points, "query 0", margin), oracle.eot)
            for query in range(1, self.queries):
                rows = progress.active
                if not len(rows):
                    break
                points = proposals.next(rows, progress.adv[rows], query, self._side(query, image, ball))
                if certain:
                    answers = oracle(rows, points, f"query {query}", margin)
                else:
                    both = torch.cat((progress.adv[rows], points))
                    held, answers = _halves(oracle(rows.repeat(2), both, f"query {query}", margin))
                    progress.note(rows, progress.adv[rows], held, oracle.eot, renew=True)
                progress.note(rows, points, answers, oracle.eot)
        found = progress.found(white_box=False)
        return replace(found, curve=_thinned(found.curve))

    def _side(self, query: int, image: Tensor, ball: ThreatModel) -> int:
        """How many pixels the window of this proposal is wide."""
        height, width = image.shape[2:]
        halvings = sum(query * 10_000 > after * self.queries for after in _HALVINGS)
        side = round(math.sqrt(self.window / 2**halvings * height * width))
        wide = 1 if ball.norm == math.inf or 5 * query >= 3 * self.queries else 2 if 5 * query >= self.queries else 3
        return min(max(side, wide), height, width)


def _halves(answers: EOTEstimate) -> tuple[EOTEstimate, EOTEstimate]:
    """Estimates of two points of each image, apart."""
    values = {name: value.chunk(2) for name, value in vars(answers).items() if value is not None}
    first, second = ({name: pair[side] for name, pair in values.items()} for side in (0, 1))
    return replace(answers, **first), replace(answers, **second)


def _thinned(curve: Tensor | None) -> Tensor | None:
    if curve is None or curve.shape[1] <= _CURVE:
        return curve
    return curve[:, torch.linspace(0, curve.shape[1] - 1, _CURVE).long()]
