"""Early elimination of classes: those clearly behind are dropped from node to node."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from common.checks.settings import check_count, check_not_negative, check_optional, check_sequence
from ndc.node_order import default_stages, node_order
from ndc.nodes import Nodes

TermsOfRows = Callable[[Sequence[int], Tensor, Tensor], Tensor]
"""``terms(nodes, rows, candidates)``: logit terms (n,R,K) at n nodes of R images, zero where ``candidates`` (R,K) is
False. See `ndc.terms.LikelihoodTerms`."""


@dataclass(frozen=True)
class Elimination:
    """Early elimination of classes, and sift-and-refine for many of them.

    Nodes are visited in a fixed order of which every beginning is spread over all nodes (`node_order`), so that after m
    of T nodes the logits are estimated by a coarse quadrature, scaled to the whole range:

        f_y = T/m sum_{i <= m} term_iy + log p(y).

    After each stage a class y is dropped unless it, or a class behind it, has

        f_y >= max_k f_k - margin - errors * s,
        s^2 = c (1 + 1/(2m - 2)) max(v_y, mean of v_k over rivals k),   v_k = (1/m) Var_i [ T (term_i,best - term_ik) ],

    s the standard error of the class's difference over the m nodes, at least that of all remaining classes, since few
    nodes may agree by chance; the factor corrects the bias of a standard deviation estimated from few values. With
    ``rule="equal"`` c = 1 - m/T, the correction for m out of finitely many T. Else c = 1: on a uniform grid the lowest
    noise levels, visited last, are the noisiest. Antithetic nodes count in pairs, since the two of a pair are not
    independent. All classes share the noise of a node, so that s is small. An image with one class left stops; classes
    that remain to the end are compared by their whole sums. Limits are in the units of the logits, independent of the
    number of nodes.

    The classes evaluated depend on the noisy image and on the noise; the noise of a node depends on neither, nor on the
    remaining classes. The classifier is a randomised function of its input, which smoothing may certify.

    Logits are whole sums for the remaining classes. A class dropped after m nodes gets the winner's logit plus its
    difference from the winner after those m nodes, which is negative: no dropped class is ever the largest. The
    gradient is that of the computed logits; where the set of classes changes, logits jump.

    Args:
        stages: numbers of nodes after which classes are dropped, ascending, below T; None is 4, 6, .. 16, 20, .. 32,
            40, ..., and twice that for antithetic nodes. A standard error takes at least two nodes.
        errors: standard errors behind at which a class is dropped. With 3.5 the class was that of the full search on
            all 3,200 noisy digits (APNDC and EPNDC, sigma 0.25 and 0.5, 16 and 32 nodes), for 21 to 51 % of its
            evaluations, and with 3 on all but 4. EPNDC with neither antithetic nodes nor its control variate (`Nodes`,
            on by default) is too noisy for that: 98 to 99 %, with no loss of accuracy.
        margin: additional distance behind, in logits; infinite with ``keep`` alone.
        keep: the most classes that remain after each of the ``stages``, or as one number after the last stage:
            ``stages=(4, 8), keep=10`` of 1,000 classes is sift-and-refine.

    Raises ``ValueError`` for stages that do not ascend, and limits that are negative.
    Source: arXiv 2402.02316 (v2), algorithms 5 (sift and refine: ``errors=0``, ``margin`` a threshold, ``keep=10``) and
    6 (``margin=inf``, ``keep`` a sequence); the standard error and the order are ours.
    """

    stages: Sequence[int] | None = None
    errors: float = 3.5
    margin: float = 0.0
    keep: int | Sequence[int] | None = None

    def __post_init__(self) -> None:
        check_not_negative("errors", self.errors)
        if not (isinstance(self.margin, float) and self.margin == math.inf):
            check_not_negative("margin", self.margin, note="It may be infinite")
        check_optional(check_sequence, "stages, numbers of nodes,", self.stages, check_count)
        self._check_keep()
        if self.stages is not None:
            self._check_stages(self.stages)

    def _check_keep(self) -> None:
        keep = self.keep if isinstance(self.keep, Sequence) else [] if self.keep is None else [self.keep]
        check_sequence("keep, a number of classes,", keep, check_count, 0)
        if self.keep is not None and self.stages is None:
            raise ValueError(f"keep needs stages, the numbers of nodes after which it applies; got keep={self.keep}")
        if isinstance(self.keep, Sequence) and len(self.keep) != len(self.stages or ()):
            stages = f"one number for each of the stages {self.stages}, or one in all"
            raise ValueError(f"keep needs {stages}; got {self.keep}")

    def _check_stages(self, stages: Sequence[int]) -> None:
        if not stages or any(a >= b for a, b in pairwise(stages)):
            raise ValueError(f"stages must be numbers of nodes, ascending from at least 1; got {list(stages)}")
        if self.errors and stages[0] < 2:
            raise ValueError("a standard error takes two nodes: start the stages at 2 or more, or set errors=0")

    def plan(self, count: int, antithetic: bool = False) -> list[list[int]]:
        """Nodes of each stage, and last the rest: all of 0 .. count-1.

        ``ValueError`` for stages that reach ``count``, or split the pairs 2j, 2j+1 of ``antithetic`` nodes.
        """
        stages = list(self.stages or default_stages(count, 2 if antithetic else 1))
        if stages and stages[-1] >= count:
            raise ValueError(f"stages must lie below the number of nodes, {count}; got {stages}")
        if antithetic and any(stage % 2 for stage in stages):
            raise ValueError(f"stages of antithetic nodes must be even, so that pairs stay together; got {stages}")
        if antithetic and self.errors and stages and stages[0] < 4:
            raise ValueError(f"a standard error takes two pairs of antithetic nodes: start at 4 or more; got {stages}")
        nodes = node_order(count, antithetic)
        return [nodes[a:b] for a, b in pairwise((0, *stages, count))]

    def logits(
        self, terms: TermsOfRows, plan: Sequence[Sequence[int]], prior: Tensor, images: int, nodes: Nodes | None = None
    ) -> Tensor:
        """Logits (B,K) of B = ``images``; ``prior`` (K,) is log p(y). ``nodes`` are those of the ``plan``."""
        total = sum(map(len, plan))
        remaining = torch.ones(images, len(prior), dtype=torch.bool, device=prior.device)
        visited = torch.zeros_like(remaining, dtype=torch.int64)
        values = prior.new_zeros(0, *remaining.shape)
        for stage, stage_nodes in enumerate(plan):
            rows = (remaining.sum(1) > 1).nonzero().squeeze(1)
            if not len(rows):
                break
            new = terms(stage_nodes, rows, remaining[rows])
            values = torch.cat([values, new.new_zeros(len(stage_nodes), *remaining.shape).index_copy(1, rows, new)])
            visited[rows] += len(stage_nodes) * remaining[rows]
            if stage < len(plan) - 1:
                limit = self._limit(stage, len(plan) - 1)
                terms_so_far = values[:, rows].detach()
                remaining[rows] &= self._survivors(terms_so_far, remaining[rows], prior, total, limit, nodes)
        return _assembled(values, remaining, visited, prior, total)

    def _limit(self, stage: int, stages: int) -> int | None:
        """Most classes that remain after a stage; None for no limit."""
        if isinstance(self.keep, int):
            return self.keep if stage == stages - 1 else None
        return None if self.keep is None else self.keep[stage]

    def _survivors(
        self, values: Tensor, remaining: Tensor, prior: Tensor, total: int, limit: int | None, nodes: Nodes | None
    ) -> Tensor:
        """Classes (R,K) of the ``remaining`` ones that stay after the m nodes of ``values`` (m,R,K)."""
        estimate = (total * values.mean(0) + prior).masked_fill(~remaining, -math.inf)
        best, leader = estimate.max(1, keepdim=True)
        candidates = remaining & (estimate > -math.inf)  # a class with an overflowed term is dropped
        allowed = torch.full_like(best, self.margin)
        if self.errors:
            deficits = total * (values.gather(2, leader.expand(len(values), -1, -1)) - values)
            allowed = allowed + self.errors * _squared_error(deficits, candidates, total, nodes).sqrt()
        threshold = best - allowed
        if limit is not None and limit < remaining.shape[1]:
            threshold = threshold.maximum(estimate.topk(limit).values[:, -1:])
        kept = candidates & (estimate >= threshold)
        lowest_kept = estimate.masked_fill(~kept, math.inf).amin(1, keepdim=True)
        ahead = candidates & (estimate >= lowest_kept)  # the kept classes and all ahead of them
        return torch.where(best > -math.inf, ahead, remaining)


def _squared_error(deficits: Tensor, remaining: Tensor, total: int, nodes: Nodes | None) -> Tensor:
    """s^2 (R,K) of the class's difference, from the ``deficits`` T [term_i,best - term_ik], (m,R,K)."""
    m, correction = len(deficits), 1 - len(deficits) / total if nodes is None or nodes.rule == "equal" else 1.0
    if nodes is not None and nodes.antithetic:
        m //= 2
        deficits = deficits.view(m, 2, *deficits.shape[1:]).mean(1)
    own_variance = deficits.var(0).masked_fill(~remaining, 0.0)
    rivals = (remaining.sum(1, keepdim=True) - 1).clamp(min=1)
    variance = own_variance.maximum(own_variance.sum(1, keepdim=True) / rivals)
    return variance * correction * (1 + 1 / (2 * m - 2)) / m


def _assembled(values: Tensor, remaining: Tensor, visited: Tensor, prior: Tensor, total: int) -> Tensor:
    """Logits (B,K) from the terms (m,B,K), of which each class has the first ``visited`` (B,K).

    The logit of a class dropped after m nodes is the winner's plus T/m sum_{i <= m} (term_iy - term_i,winner), plus the
    difference of their log p(y).
    """
    share = total / visited.to(prior)
    estimate = share * values.sum(0) + prior
    winner = estimate.masked_fill(~remaining, -math.inf).argmax(1, keepdim=True)
    partial_sums = values.gather(2, winner.expand(len(values), -1, -1)).squeeze(2).cumsum(0).transpose(0, 1)
    difference = share * (values.sum(0) - partial_sums.gather(1, visited - 1)) + prior - prior[winner]
    return torch.where(visited == visited.gather(1, winner), estimate, estimate.gather(1, winner) + difference)
