"""Candidates of a staged attack: adversarial images and how often held-out draws misclassify each."""

from dataclasses import replace

import torch
from torch import Tensor

from common.robustness.attacks.attack import AttackResult
from common.robustness.attacks.best_iterates import BestIterates
from common.robustness.attacks.eot import EOTLoss
from common.robustness.losses import margin


class Candidates:
    """Points for each image, ranked by the share of ``held_out`` draws that misclassify them, then by mean margin.

    The draws are the same for all candidates and no climb uses them, so that the rank of a point does not depend on the
    draws that found it. ``most`` is the largest number of candidates of an image. With ``settled`` an image is done
    once all held-out draws of a candidate are misclassified. ``logits`` (B,K) are the mean logits of the best
    candidates.
    """

    def __init__(self, held_out: EOTLoss, image: Tensor, most: int, settled: bool) -> None:
        self.held_out, self.image, self._settled = held_out, image, settled
        self.best = BestIterates(image, most, deterministic=False, early_stop=False)
        self.points: list[Tensor] = []
        self.scores: list[Tensor] = []
        self.logits = image.new_zeros(0)
        self._done = torch.zeros(len(image), dtype=torch.bool, device=image.device)

    @property
    def rows(self) -> Tensor:
        """Indices (A,) of the images that are not done."""
        return (~self._done).nonzero().flatten() if self._settled else self.best.active

    def add(self, points: Tensor, rows: Tensor) -> None:
        """Rank the points (A,C,H,W) of the images ``rows`` (A,)."""
        if not len(rows):
            return
        estimate = self.held_out(points, margin, "held out", rows, differentiate=False)
        score = 1 - estimate.accuracy + (1 + _squashed(estimate.margin)) / (4 * estimate.draws)
        higher = score > self.best.loss[rows]
        self.best.update(rows, points, replace(estimate, loss=score))
        everywhere, scores = self.image.clone(), torch.full_like(self.best.loss, -torch.inf)
        everywhere[rows], scores[rows] = points, score
        self.points.append(everywhere)
        self.scores.append(scores)
        if not len(self.logits):
            self.logits = self.image.new_zeros(len(self.image), estimate.logits.shape[1])
        self.logits[rows] = torch.where(higher[:, None], estimate.logits, self.logits[rows])
        if self._settled:
            self._done[rows] |= estimate.accuracy == 0

    def best_of(self, count: int) -> list[Tensor]:
        """The ``count`` best candidates of each image, best first, (B,C,H,W) each; fewer if there are fewer."""
        scores, points = torch.stack(self.scores), torch.stack(self.points)
        order = scores.argsort(dim=0, descending=True, stable=True)[:count]
        return [points[place, torch.arange(len(self.image), device=place.device)] for place in order]

    def result(self) -> AttackResult:
        """The best candidate of each image; ``loss`` is its share of misclassified draws, less than one draw above."""
        return self.best.result()


def _squashed(values: Tensor) -> Tensor:
    """Monotone map to (-1, 1)."""
    return values / (1 + values.abs())
