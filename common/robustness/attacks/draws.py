"""Draws of an EOT estimate, in slices of rows that any rank evaluates with the same bits."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from common.checks.images import check_logits, check_losses
from common.engine.switch import REPEATABLE
from common.noise import Noise
from common.numerics.copies import copied
from common.robustness.classifiers import Classifier
from common.robustness.losses import LOSSES, TARGETED, Loss, TargetedLoss

_NAMED: dict[str, Loss | TargetedLoss] = {**LOSSES, **TARGETED}


@dataclass(frozen=True)
class Draws:
    """``n`` draws at each of A points: A*n rows, point-major, in slices of at most ``size`` rows.

    ``points`` (A,C,H,W); ``noise`` has a row for each draw, (A*n,); ``classes`` are the label and, of a targeted loss,
    the target of each point, (A,). ``differentiate``: with the gradient of each row. ``judge(logits)`` is called with
    the logits of each slice before its loss.
    """

    points: Tensor
    noise: Noise
    classes: Sequence[Tensor]
    n: int
    loss: Loss | TargetedLoss
    differentiate: bool
    size: int
    judge: Callable[[Tensor], None] = lambda logits: None

    @property
    def slices(self) -> int:
        """Number of slices."""
        return math.ceil(len(self.noise) / self.size)

    @property
    def is_named(self) -> bool:
        """True if other ranks know the loss by its name."""
        return any(one is self.loss for one in _NAMED.values())

    def part(self, classifier: Classifier, number: int) -> dict[str, Tensor]:
        """``loss`` (R,), ``logits`` (R,K) and, to differentiate, ``gradient`` (R,C,H,W) of slice ``number``.

        Raises ``ValueError`` for outputs that are no logits and losses that are not (R,), ``RuntimeError`` where no
        gradient reaches the points.
        """
        rows = slice(number * self.size, min((number + 1) * self.size, len(self.noise)))
        point = torch.arange(rows.start, rows.stop, device=self.points.device) // self.n
        x = self.points.detach()[point].requires_grad_(self.differentiate)
        with torch.set_grad_enabled(self.differentiate), REPEATABLE.turned_on():  # also on a rank that helps
            logits = check_logits(classifier(x, self.noise.rows(rows)), len(x))
            self.judge(logits)
            losses = check_losses(self.loss(*copied(logits, *(each[point] for each in self.classes))), len(x))
            gradient = {"gradient": _gradient(losses, x)} if self.differentiate else {}
        return {"loss": losses.detach(), "logits": logits.detach(), **gradient}

    def content(self) -> dict[str, Any]:
        """Tensors and numbers for `read` on another rank."""
        name = next(name for name, one in _NAMED.items() if one is self.loss)
        noise = {"seed": self.noise.seed, "depth": self.noise.depth, "index": self.noise.index, "draw": self.noise.draw}
        settings = {"n": self.n, "differentiate": self.differentiate, "size": self.size, "loss": name}
        return {"points": self.points.detach(), "classes": list(self.classes), **noise, **settings}

    @classmethod
    def read(cls, content: dict[str, Any]) -> "Draws":
        """The draws of a `content`."""
        noise = Noise(*(content.pop(name) for name in ("seed", "index", "draw", "depth")))
        return cls(noise=noise, loss=_NAMED[content.pop("loss")], **content)


def _gradient(loss: Tensor, x: Tensor) -> Tensor:
    """Row-wise gradient: row b of ``x`` affects loss b alone."""
    gradient = torch.autograd.grad(loss.sum(), x, allow_unused=True)[0] if loss.requires_grad else None
    if gradient is None:
        raise RuntimeError(
            "the classifier's logits do not depend differentiably on the image: no gradient reaches it. "
            "Remove no_grad and detach on the way, or use a gradient-free attack."
        )
    return gradient.detach()
