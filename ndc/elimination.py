"""Fewer classes from node to node: whichever is behind beyond doubt is asked no more."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from common.units import check_integer
from ndc.likelihood import Nodes

Terms = Callable[[Sequence[int], Tensor, Tensor], Tensor]
"""``terms(nodes, rows, wanted)``: what each of n nodes adds to the logits of R chosen images, (n,R,K); zero where
``wanted`` (R,K) is false."""


@dataclass(frozen=True)
class Elimination:
    """Early elimination of classes, and sift-and-refine for many of them.

    Nodes are visited in a fixed order of which every beginning is spread over all nodes (`order`), so that after m of
    T nodes the logits are estimated by a coarse quadrature, scaled to the whole range:

        f_y = T/m sum_{i <= m} term_iy + log p(y).

    After each stage a class y is dropped unless it, or a class behind it, has

        f_y >= max_k f_k - margin - errors * s,
        s^2 = c (1 + 1/(2m - 2)) max(v_y, mean of v_k over rivals k),   v_k = (1/m) Var_i [ T (term_i,best - term_ik) ],

    s the standard error of the class's difference over the nodes seen, but no less than that of all classes still in,
    since few nodes may look alike by chance; the factor undoes the bias of a deviation estimated from few. Where all
    nodes count alike (``rule="equal"``) c = 1 - m/T, as m out of finitely many T are seen, whose whole sum is what is
    asked for. Else c = 1: on a uniform grid the noise of the lowest nodes, seen last, is most of all noise. Antithetic
    nodes count by pairs, as the two of a pair are not independent. All classes see the same noise at a node, so that s
    is small. An image with one class left is done; classes that go on to the end are compared by their whole sums.
    Limits are in the units of the logits, whatever the number of nodes.

    Which classes are asked depends on the noisy image and on the noise; the noise of a node depends on neither, nor on
    the classes that are left. The classifier is a randomised function of its input, and smoothing may certify it.

    The logits: whole sums for the classes that are left, and for a class dropped after m nodes what the winner has,
    less its deficit against the winner after those m nodes. That is negative, so no dropped class is ever the largest.
    They are differentiable with the gradient of what was computed; between choices of classes they jump.

    Args:
        stages: numbers of nodes after which classes are dropped, ascending, below T; None is 4, 6, .. 16, 20, .. 32,
            40, ..., and twice that for antithetic nodes. Two nodes are too few to tell an error by.
        errors: how many standard errors behind a class must be. With 3.5 the answer was that of the full search on all
            3,200 noisy digits (APNDC and EPNDC, sigma 0.25 and 0.5, 16 and 32 nodes), for 21 to 51 % of its
            evaluations, and with 3 on all but 4. EPNDC with neither antithetic nodes nor its control variate (`Nodes`,
            on by default) is too noisy for that: 98 to 99 %, with no loss of accuracy.
        margin: how much further behind, in logits; infinite with ``keep`` alone.
        keep: at most so many classes go on, after each of the ``stages``, or if it is one number after the last of
            them: ``stages=(4, 8), keep=10`` of 1,000 classes is sift-and-refine.

    Raises ``ValueError`` for stages that do not ascend, and limits that are negative.
    Source: arXiv 2402.02316 (v2), algorithms 5 (sift and refine: ``errors=0``, ``margin`` a threshold, ``keep=10``) and
    6 (``margin=inf``, ``keep`` a sequence); the standard error and the order are ours.
    """

    stages: Sequence[int] | None = None
    errors: float = 3.5
    margin: float = 0.0
    keep: int | Sequence[int] | None = None

    def __post_init__(self) -> None:
        if not (0 <= self.errors < math.inf and self.margin >= 0):
            raise ValueError(f"errors and margin must not be negative; got {self.errors} and {self.margin}")
        stages = self.stages
        for number in stages or ():
            check_integer("each of the stages, numbers of nodes,", number, 1)
        for number in _numbers(self.keep):
            check_integer("keep, a number of classes,", number, 1)
        if self.keep is not None and stages is None:
            raise ValueError(
                f"keep, a number of classes, needs stages to say after how many nodes; got keep={self.keep}"
            )
        if stages is not None and (not stages or any(a >= b for a, b in pairwise(stages))):
            raise ValueError(f"stages must be numbers of nodes, ascending from at least 1; got {list(stages)}")
        if stages is not None and self.errors and stages[0] < 2:
            raise ValueError("a standard error takes two nodes: start the stages at 2 or more, or set errors=0")
        if not isinstance(self.keep, int | None) and len(self.keep) != len(stages or ()):
            raise ValueError(f"keep needs one number for each of the stages {stages}, or one in all; got {self.keep}")

    def plan(self, count: int, antithetic: bool = False) -> list[list[int]]:
        """The nodes of each stage, and last the rest: all of 0 .. count-1.

        ``ValueError`` for stages that reach ``count``, or part the pairs 2j, 2j+1 of ``antithetic`` nodes.
        """
        stages = list(self.stages or _finer(count, 2 if antithetic else 1))
        if stages and stages[-1] >= count:
            raise ValueError(f"stages must lie below the number of nodes, {count}; got {stages}")
        if antithetic and any(stage % 2 for stage in stages):
            raise ValueError(f"stages of antithetic nodes must be even, as each pair is seen whole; got {stages}")
        if antithetic and self.errors and stages and stages[0] < 4:
            raise ValueError(f"a standard error takes two pairs of antithetic nodes: start at 4 or more; got {stages}")
        nodes = order(count, antithetic)
        return [nodes[a:b] for a, b in pairwise((0, *stages, count))]

    def logits(
        self, terms: Terms, plan: Sequence[Sequence[int]], prior: Tensor, images: int, nodes: Nodes | None = None
    ) -> Tensor:
        """The logits (B,K) of B = ``images``; ``prior`` (K,) is log p(y). ``nodes`` are those of the ``plan``."""
        total = sum(map(len, plan))
        alive = torch.ones(images, len(prior), dtype=torch.bool, device=prior.device)
        seen = torch.zeros_like(alive, dtype=torch.int64)
        values = prior.new_zeros(0, *alive.shape)
        for stage, chosen in enumerate(plan):
            rows = (alive.sum(1) > 1).nonzero().squeeze(1)
            if not len(rows):
                break
            found = terms(chosen, rows, alive[rows])
            values = torch.cat([values, found.new_zeros(len(chosen), *alive.shape).index_copy(1, rows, found)])
            seen[rows] += len(chosen) * alive[rows]
            if stage < len(plan) - 1:
                limit = self._limit(stage, len(plan) - 1)
                alive[rows] &= self._survivors(values[:, rows].detach(), alive[rows], prior, total, limit, nodes)
        return _assembled(values, alive, seen, prior, total)

    def _limit(self, stage: int, stages: int) -> int | None:
        if isinstance(self.keep, int):
            return self.keep if stage == stages - 1 else None
        return None if self.keep is None else self.keep[stage]

    def _survivors(
        self, values: Tensor, alive: Tensor, prior: Tensor, total: int, limit: int | None, nodes: Nodes | None
    ) -> Tensor:
        """Who goes on, (R,K), of those ``alive`` after the nodes of ``values`` (m,R,K)."""
        estimate = (total * values.mean(0) + prior).masked_fill(~alive, -math.inf)
        best, leader = estimate.max(1, keepdim=True)
        possible = alive & (estimate > -math.inf)  # a term that overflowed rules its class out
        allowed = torch.full_like(best, self.margin)
        if self.errors:
            behind = total * (values.gather(2, leader.expand(len(values), -1, -1)) - values)
            allowed = allowed + self.errors * _squared_error(behind, possible, total, nodes).sqrt()
        least = best - allowed
        if limit is not None and limit < alive.shape[1]:
            least = least.maximum(estimate.topk(limit).values[:, -1:])
        kept = possible & (estimate >= least)
        last = estimate.masked_fill(~kept, math.inf).amin(1, keepdim=True)
        return torch.where(best > -math.inf, possible & (estimate >= last), alive)  # with a class all before it


def _squared_error(behind: Tensor, alive: Tensor, total: int, nodes: Nodes | None) -> Tensor:
    """s^2 (R,K) of what classes are ``behind`` (m,R,K) the leader, times T."""
    m, finite = len(behind), 1 - len(behind) / total if nodes is None or nodes.rule == "equal" else 1.0
    if nodes is not None and nodes.antithetic:
        m //= 2
        behind = behind.view(m, 2, *behind.shape[1:]).mean(1)
    own = behind.var(0).masked_fill(~alive, 0.0)
    variance = own.maximum(own.sum(1, keepdim=True) / (alive.sum(1, keepdim=True) - 1).clamp(min=1))
    return variance * finite * (1 + 1 / (2 * m - 2)) / m


def _assembled(values: Tensor, alive: Tensor, seen: Tensor, prior: Tensor, total: int) -> Tensor:
    """Logits (B,K) of the terms (m,B,K) of which each class has ``seen`` the first so many."""
    share = total / seen.to(prior)
    estimate = share * values.sum(0) + prior
    winner = estimate.masked_fill(~alive, -math.inf).argmax(1, keepdim=True)
    course = values.gather(2, winner.expand(len(values), -1, -1)).squeeze(2).cumsum(0).transpose(0, 1)
    deficit = share * (values.sum(0) - course.gather(1, seen - 1)) + prior - prior[winner]
    return torch.where(seen == seen.gather(1, winner), estimate, estimate.gather(1, winner) + deficit)


def order(count: int, pairs: bool = False) -> list[int]:
    """0 .. count-1 so that every beginning is spread over all: the last, then the middle, then the quarters.

    The van der Corput sequence from the top: the highest noise levels tell classes apart best. With ``pairs`` 2j and
    2j+1 stay together, and what is odd comes last.
    """
    if pairs:
        return [node for j in order(count // 2) for node in (2 * j, 2 * j + 1)] + [count - 1] * (count % 2)
    bits = max(1, (count - 1).bit_length())
    points = [int(f"{i:0{bits}b}"[::-1], 2) for i in range(count)]
    rank = {point: place for place, point in enumerate(sorted(points))}
    return [count - 1 - rank[point] for point in points]


def _numbers(keep: int | Sequence[int] | None) -> list[int]:
    return list(keep) if isinstance(keep, Sequence) else [] if keep is None else [keep]


def _finer(count: int, each: int) -> list[int]:
    """4, 6, then four steps from each power of two to the next, times ``each``, below ``count``."""
    steps = [4, 6, *(n for k in range(3, count.bit_length()) for n in range(1 << k, 2 << k, 1 << (k - 2)))]
    return [each * n for n in steps if each * n < count]
