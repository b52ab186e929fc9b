"""A classifier whose gradient is that of DiffHammer, exact or grafted."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from common.checks.deferred import check_values
from common.noise import Noise
from common.robustness.attacks.diffhammer_weights import DrawWeights
from common.robustness.classifiers import Classifier, ClassifierWrapper, Purified
from common.robustness.voting import Voting


class ReweightedGradient(ClassifierWrapper):
    """The classifier with the gradients of the ``n`` draws of an image replaced by their weighted gradient.

    ``n`` None: as many as the rows of a call have, for which the host waits. Raises ``ValueError`` for a call with a
    gradient whose rows are not n draws of each image.
    """

    def __init__(self, classifier: Classifier, weights: DrawWeights, n: int | None, graft: bool) -> None:
        super().__init__(classifier)
        self.weights, self.n, self.graft = weights, n, graft

    def forward(self, image: Tensor, noise: Noise | None = None) -> Tensor:
        if noise is None or not (torch.is_grad_enabled() and image.requires_grad):
            logits: Tensor = self.classifier(image, noise)
            return logits
        n = self._draws(noise.index)
        if self.graft:
            logits = _Grafted.apply(image, self, noise, n)
        else:
            logits = self.classifier(_Reweighted.apply(image, self, noise.index, n), noise)
        return logits

    def _draws(self, index: Tensor) -> int:
        """Number n of draws of each image, of rows with ``index`` (A*n,)."""
        n = int((index == index[0]).sum()) if self.n is None else self.n
        if len(index) % n:
            self._judge([0.0])
        images = index.view(-1, n)
        same, others = images == images[:, :1], images[1:, 0] != images[:-1, 0]
        check_values((same.all() & others.all())[None], self._judge)
        return n

    def _judge(self, right: list[float]) -> None:
        if not right[0]:
            raise ValueError(
                f"DiffHammer weighs the draws of an image together, {self.n or 'equally many'} of each; the attack "
                "inside called the classifier with other rows. Use an attack whose calls with a gradient have eot "
                "draws of each image, one image after another"
            )


class _Reweighted(torch.autograd.Function):
    """The identity; its backward pass gives every draw of an image their weighted gradient."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, owner: ReweightedGradient, index: Tensor, n: int) -> Tensor:
        ctx.weights, ctx.index, ctx.n = owner.weights, index[::n], n
        return image.view_as(image)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None, None, None]:
        r, _ = ctx.weights.combine(_by_image(cotangent, ctx.n))
        mixed = ctx.weights.with_memory(r, ctx.index)
        return mixed.repeat_interleave(ctx.n, 0).view_as(cotangent), None, None, None


class _Grafted(torch.autograd.Function):
    """The logits; the backward pass pulls the weighted gradient at purified images back through one draw."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, owner: ReweightedGradient, noise: Noise, n: int) -> Tensor:
        with torch.enable_grad(), _purified_images(owner.classifier, detach=True) as purified:
            logits: Tensor = owner.classifier(image.detach(), noise)
        ctx.graph, ctx.owner, ctx.noise, ctx.n = (logits, purified[0]), owner, noise, n
        ctx.save_for_backward(image)
        return logits.detach()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None, None, None]:
        owner, n = ctx.owner, ctx.n
        (image,) = ctx.saved_tensors
        logits, purified = ctx.graph
        (gradient,) = torch.autograd.grad(logits, purified, cotangent)
        r, first = owner.weights.combine(_by_image(gradient[: len(image)], n))
        rows = torch.arange(len(first), device=first.device) * n + first
        with torch.enable_grad(), _purified_images(owner.classifier, detach=False) as recomputed:
            leaf = image[rows].detach().requires_grad_()
            owner.classifier(leaf, ctx.noise.rows(rows))
            (grafted,) = torch.autograd.grad(recomputed[0][: len(leaf)], leaf, r.view_as(leaf))
        mixed = owner.weights.with_memory(grafted, ctx.noise.index[::n])
        return mixed.repeat_interleave(n, 0), None, None, None


def graftable_purifier(classifier: nn.Module) -> nn.Module:
    """The only purifier, whose output is classified row by row; ``ValueError`` if there are others, or a vote."""
    purifiers = [module.purifier for module in classifier.modules() if isinstance(module, Purified)]
    votes = any(isinstance(module, Voting) for module in classifier.modules())
    if len(purifiers) != 1 or votes:
        raise ValueError(
            f"grafting needs one purifier in front of the classifier and no vote; {type(classifier).__name__} has "
            f"{len(purifiers)} and {'a' if votes else 'no'} vote. Use graft=False"
        )
    return purifiers[0]


def _by_image(rows: Tensor, n: int) -> Tensor:
    """Rows (A*n,C,H,W), image-major, as (A,n,D)."""
    return rows.reshape(-1, n, rows[0].numel())


@contextmanager
def _purified_images(classifier: nn.Module, detach: bool) -> Iterator[list[Tensor]]:
    """Context manager: the purified images of each call; with ``detach`` as leaves of the classifier's graph."""
    images: list[Tensor] = []

    def hook(module: nn.Module, inputs: Any, purified: Tensor) -> Tensor:
        images.append(purified.detach().requires_grad_() if detach else purified)
        return images[-1]

    handle = graftable_purifier(classifier).register_forward_hook(hook)
    try:
        yield images
    finally:
        handle.remove()
