"""Sift and refine: the published elimination of classes, on noise levels of its own."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from common.checks.settings import check_count, check_flag, check_not_negative, check_optional, check_part
from ndc.elimination import TermsOfRows
from ndc.nodes import Nodes

PUBLISHED_MARGIN = 5e-5 * 1000 / 49
"""Published threshold for ImageNet in units of the logits. It is 5e-5 for losses with 1/1000 of the range of noise
levels as their width; 50 points of a grid are 1/49 of the range apart."""


@dataclass(frozen=True)
class Sifting:
    """Sift and refine as published for ImageNet: thresholds and nodes of its own, where `Elimination` goes by errors.

    Sift: nodes i = 1, 2, ... of a coarse grid, from the lowest noise level on, one at a time. With the score

        s_y = log p(y) + sum_{j <= i} term_jy     (``cumulative``; else the node's own term_iy alone),

    a class stays if s_y > max_k s_k - ``margin``, k among the remaining classes. The sift of an image ends with
    ``keep`` classes or fewer; at the end of the grid the best ``keep`` remain.

    Refine: logits of the remaining classes over all nodes of the classifier, which are other noise levels with noise of
    their own; the sums of the sift are discarded. An image with one class left needs none.

    A dropped class gets the winner's logit less its distance from the winner in score at its last node, which is
    positive: no dropped class is the largest. As with `Elimination`, the noise of a node depends neither on the image
    nor on the remaining classes, smoothing may certify the classifier, and its gradient is that of the computed logits.

    Args:
        nodes: nodes of the sift. The published 50 points are 48 of the rule "reference", counted as its 126 are 124.
        margin: largest distance behind the best, in units of the logits (losses divided by the temperature).
        keep: see above; None sifts over all nodes and refines all that remain.
        cumulative: True is the published code, False is algorithm 5 of the paper, which has no ``keep``.

    Raises ``ValueError`` for a negative margin and for ``keep`` below 1.
    Source: arXiv 2402.02316 (v2), algorithm 5, and its published code.
    """

    nodes: Nodes = field(default_factory=lambda: Nodes(48, "reference"))
    margin: float = PUBLISHED_MARGIN
    keep: int | None = 10
    cumulative: bool = True

    def __post_init__(self) -> None:
        check_part("nodes", self.nodes, Nodes)
        check_not_negative("margin", self.margin)
        check_optional(check_count, "keep, a number of classes,", self.keep, note="None keeps all within the margin")
        check_flag("cumulative", self.cumulative)

    def most_evaluations(self, classes: int, nodes: int) -> int:
        """Most (class, node) pairs evaluated of one image, with ``nodes`` to refine; without classes of equal score."""
        if self.keep is None:
            return classes * (self.nodes.count + nodes)
        return classes * self.nodes.count * (classes > self.keep) + min(classes, self.keep) * nodes

    def logits(self, sift: TermsOfRows, refine: TermsOfRows, prior: Tensor, images: int, nodes: int) -> Tensor:
        """Logits (B,K) of B = ``images``; ``prior`` (K,) is log p(y), ``nodes`` the number of those that ``refine``."""
        remaining = torch.ones(images, len(prior), dtype=torch.bool, device=prior.device)
        visited = torch.zeros_like(remaining, dtype=torch.int64)
        score, scores = prior.expand(images, -1), []
        for node in range(self.nodes.count):
            rows = (remaining.sum(1) > (self.keep or 1)).nonzero().squeeze(1)
            if not len(rows):
                break
            term = sift([node], rows, remaining[rows])[0]
            new = (score[rows] if self.cumulative else prior) + term
            score = score.index_copy(0, rows, new)
            scores.append(score)
            visited[rows] += remaining[rows]
            last = node == self.nodes.count - 1
            remaining[rows] = self._survivors(new.detach(), remaining[rows], self.keep if last else None)
        return _assembled(_refined(refine, remaining, score, prior, nodes), remaining, visited, scores)

    def _survivors(self, score: Tensor, remaining: Tensor, limit: int | None) -> Tensor:
        """Classes (R,K) of the ``remaining`` ones that stay, at most ``limit`` unless scores are equal."""
        candidates = remaining & (score > -math.inf)  # a class with an overflowed term is dropped
        score = score.masked_fill(~candidates, -math.inf)
        best = score.amax(1, keepdim=True)
        kept = candidates & ((score > best - self.margin) | (score == best))
        if limit is not None and limit < score.shape[1]:
            kept &= score >= score.topk(limit).values[:, -1:]
        return torch.where(best > -math.inf, kept, remaining)


def _refined(refine: TermsOfRows, remaining: Tensor, score: Tensor, prior: Tensor, nodes: int) -> Tensor:
    """Logits (B,K) of the ``remaining`` classes; those of images with a single one are its ``score``."""
    rows = (remaining.sum(1) > 1).nonzero().squeeze(1)
    if not len(rows):
        return score
    return score.index_copy(0, rows, refine(range(nodes), rows, remaining[rows]).sum(0) + prior)


def _assembled(refined: Tensor, remaining: Tensor, visited: Tensor, scores: list[Tensor]) -> Tensor:
    """Logits (B,K): ``refined`` of the remaining classes, and of a dropped one the winner's less the distance in score.

    ``visited`` (B,K) counts the nodes of each class, ``scores`` are (B,K) after each of them.
    """
    if not scores:
        return refined
    winner = refined.masked_fill(~remaining, -math.inf).argmax(1, keepdim=True)
    course, last = torch.stack(scores), visited - 1
    own = course.gather(0, last[None])[0]
    ahead = course.gather(2, winner.expand(len(course), -1, -1)).squeeze(2).T.gather(1, last)
    return torch.where(remaining, refined, refined.gather(1, winner) + own - ahead)
