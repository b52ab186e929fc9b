"""Iterates of APGD: next points and step sizes from the losses and gradients so far, image by image."""

import math

import torch
from torch import Tensor

from common.robustness.attacks.eot import per_image
from common.robustness.threats.norm_ball import ThreatModel, over_largest

_MOMENTUM = 0.75  # weight of the new direction; the rest goes to the previous one
_RISING = 0.75  # share of the steps since the last checkpoint that must have raised the loss
_SPARSER, _THINNING = 0.95, 1.5  # L1: ratio below which the support counts as sparser; divisor of step size and support


def checkpoints(steps: int) -> set[int]:
    """``ceil(p_j steps)``: p_0 = 0, p_1 = 0.22, p_(j+1) = p_j + max(p_j - p_(j-1) - 0.03, 0.06). arXiv 2003.01690."""
    percent, period, points = 22, 22, set()
    while percent < 100:
        points.add(math.ceil(percent * steps / 100))
        period = max(period - 3, 6)
        percent += period
    return points


class APGDSteps:
    """One run of APGD in L-inf or L2 (Croce & Hein, arXiv 2003.01690); ``x`` (A,C,H,W) are the current iterates.

    With P the projection and s the steepest direction (`ThreatModel.ascend`),

        z = P(x_k + eta s(g_k)),    x_(k+1) = P(x_k + 0.75 (z - x_k) + 0.25 (x_k - x_(k-1))),    eta = 2 eps at first.

    At each checkpoint eta is halved, and the run restarts from its best point so far, for every image whose loss rose
    in fewer than 75 % of the steps since the last checkpoint, or whose best loss and eta are those of the last
    checkpoint. Losses and gradients are EOT means. After a jump to the best point there is no momentum.
    """

    def __init__(self, ball: ThreatModel, image: Tensor, start: Tensor, steps: int) -> None:
        self.ball, self.image, self.x, self.previous = ball, image, start, start
        self.steps = steps
        self._checkpoints = self._schedule(steps)
        self._step = self._last = 0
        self.best, self.gradient, self.best_gradient = start, torch.zeros_like(start), torch.zeros_like(start)
        self.loss = image.new_full((len(image),), -torch.inf)
        self.best_loss, self.marked_loss = self.loss, self.loss
        self.rises = torch.zeros_like(self.loss)
        self.size = torch.full_like(self.loss, self._first_size())
        self.changed = torch.zeros_like(self.loss, dtype=torch.bool)

    def select(self, rows: Tensor) -> None:
        """Drop all images but ``rows``, (A,) bool."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value[rows])

    def step(self, loss: Tensor, gradient: Tensor) -> None:
        """Move ``x`` to the next iterate, given loss (A,) and gradient (A,C,H,W) at ``x``."""
        if self._step:
            self.rises = self.rises + (loss > self.loss)
        self.loss, self.gradient = loss, gradient
        higher = per_image(self.keep(loss), self.x)
        self.best_gradient = torch.where(higher, gradient, self.best_gradient)
        if not self._step:
            self.marked_loss = self.best_loss
        elif self._step in self._checkpoints:
            self._adapt()
            self.marked_loss, self.rises, self._last = self.best_loss, torch.zeros_like(self.rises), self._step
        following = self.ball.project(self.image, self._moved())
        self.previous, self.x = self.x, following
        self._step += 1

    def keep(self, loss: Tensor) -> Tensor:
        """Make ``x`` the best point where its ``loss`` (A,) is the highest so far; returns where, (A,) bool."""
        higher = loss > self.best_loss
        self.best_loss = torch.where(higher, loss, self.best_loss)
        self.best = torch.where(per_image(higher, self.x), self.x, self.best)
        return higher

    def _schedule(self, steps: int) -> set[int]:
        return checkpoints(steps)

    def _first_size(self) -> float:
        return 2 * self.ball.eps

    def _moved(self) -> Tensor:
        """The next iterate before projection."""
        ahead = self.ball.project(self.image, self.ball.ascend(self.x, self.gradient, per_image(self.size, self.x)))
        if not self._step:
            return ahead
        return self.x + _MOMENTUM * (ahead - self.x) + (1 - _MOMENTUM) * (self.x - self.previous)

    def _adapt(self) -> None:
        """Adapt step sizes at a checkpoint."""
        few = self.rises < _RISING * (self._step - self._last)
        stuck = ~self.changed & (self.best_loss <= self.marked_loss)
        self.changed = few | stuck
        self.size = torch.where(self.changed, self.size / 2, self.size)
        self._jump(self.changed)

    def _jump(self, rows: Tensor) -> None:
        """Return to the best point so far, for the images ``rows``, (A,) bool."""
        wide = per_image(rows, self.x)
        self.x, self.previous = torch.where(wide, self.best, self.x), torch.where(wide, self.best, self.previous)
        self.gradient = torch.where(wide, self.best_gradient, self.gradient)
        self.loss = torch.where(rows, self.best_loss, self.loss)


class SparseAPGDSteps(APGDSteps):
    """One run of APGD in L1 (Croce & Hein, arXiv 2103.01208): ``x_(k+1) = P(x_k + eta s(g_k))``, eta = eps at first.

    s is the gradient on the k coordinates where it is largest, over its L1 norm. k is a fifth of all at first; of a run
    that is ``continued`` from another one's best point, the number of coordinates at which the start differs from the
    image, over 1.5. Every 4 % of the steps k becomes that number for the best point so far, over 1.5. Where the number
    fell by more than 5 %, eta is eps again and the run goes on from the best point; elsewhere eta is divided by 1.5,
    down to eps / 100.

    Difference from the paper: its s is the sign of those k entries, regardless of the box, and eta stays above
    eps / 10. All k entries are then equal, so that too large a k is never corrected, and steps push against the box: on
    linear models it reaches 90 to 100 % of the optimum. Here s is proportional to the gradient, over coordinates that
    the box does not hold: 99.4 to 100 %.
    """

    def __init__(self, ball: ThreatModel, image: Tensor, start: Tensor, steps: int, continued: bool = False) -> None:
        super().__init__(ball, image, start, steps)
        dimension = image.shape[1:].numel()
        self.support = self._support(start) if continued else torch.full_like(self.loss, dimension)
        self.kept = self.support / _THINNING if continued else torch.full_like(self.loss, dimension / 5)

    def _schedule(self, steps: int) -> set[int]:
        period = max(4 * steps // 100, 1)
        return set(range(period, steps, period))

    def _first_size(self) -> float:
        return self.ball.eps

    def _moved(self) -> Tensor:
        held = torch.where(self.gradient > 0, self.x >= 1, self.x <= 0)
        g = over_largest(torch.where(held, 0.0, self.gradient).flatten(1))
        order = g.abs().argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        sparse = torch.where(order < self.kept.clamp(min=1).floor()[:, None], g, 0.0)
        direction = sparse / sparse.abs().sum(1, keepdim=True).clamp(min=1)
        return self.x + per_image(self.size, self.x) * direction.view_as(self.x)

    def _adapt(self) -> None:
        support = self._support(self.best)
        sparser = support < _SPARSER * self.support
        self.kept, self.support = support / _THINNING, support
        smaller = (self.size / _THINNING).clamp(min=self.ball.eps / 100)
        self.size = torch.where(sparser, self.ball.eps, smaller)
        self._jump(sparser)

    def _support(self, x: Tensor) -> Tensor:
        """Number of coordinates at which ``x`` differs from the image, (A,)."""
        return (x != self.image).flatten(1).sum(1).to(self.loss)


def shrinking_balls(ball: ThreatModel, steps: int) -> list[tuple[ThreatModel, int]]:
    """The large-eps schedule in L1: radii of 3, 2 and 1 eps for 30, 30 and 40 % of the steps. arXiv 2103.01208.

    The first two shares are rounded up. Of one, two or four steps they would leave none: all are taken at eps.
    """
    part = math.ceil(0.3 * steps)
    if steps <= 2 * part:
        return [(ball, steps)]
    return [(ball.resized(3 * ball.eps), part), (ball.resized(2 * ball.eps), part), (ball, steps - 2 * part)]
