"""A classifier whose gradient is that of DiffHammer, exact or grafted."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from common.noise import Noise
from common.robustness.attacks.diffhammer_weights import DrawWeights
from common.robustness.classifiers import Classifier, ClassifierWrapper, Purified
from common.robustness.voting import Voting


class ReweightedGradient(ClassifierWrapper):
    """The classifier with the gradients of an image's draws replaced by their weighted gradient."""

    def __init__(self, classifier: Classifier, weights: DrawWeights, graft: bool) -> None:
        super().__init__(classifier)
        self.weights, self.graft = weights, graft

    def forward(self, image: Tensor, noise: Noise | None = None) -> Tensor:
        if noise is None or not (torch.is_grad_enabled() and image.requires_grad):
            logits: Tensor = self.classifier(image, noise)
        elif self.graft:
            logits = _Grafted.apply(image, self.classifier, noise, self.weights)
        else:
            logits = self.classifier(_Reweighted.apply(image, noise, self.weights), noise)
        return logits


class _Reweighted(torch.autograd.Function):
    """The identity; its backward pass gives every draw of an image their weighted gradient."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, noise: Noise, weights: DrawWeights) -> Tensor:
        ctx.noise, ctx.weights = noise, weights
        return image.view_as(image)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None, None]:
        gradients, index = _by_image(cotangent, ctx.noise)
        r, _ = ctx.weights.combine(gradients)
        n = gradients.shape[1]
        return ctx.weights.with_memory(r, index).repeat_interleave(n, 0).view_as(cotangent), None, None


class _Grafted(torch.autograd.Function):
    """The logits; the backward pass pulls the weighted gradient at purified images back through one draw."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, classifier: Classifier, noise: Noise, weights: DrawWeights) -> Tensor:
        with torch.enable_grad(), _purified_images(classifier, detach=True) as purified:
            logits: Tensor = classifier(image.detach(), noise)
        ctx.graph, ctx.classifier, ctx.noise, ctx.weights = (logits, purified[0]), classifier, noise, weights
        ctx.save_for_backward(image)
        return logits.detach()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None, None, None]:
        (image,) = ctx.saved_tensors
        logits, purified = ctx.graph
        (gradient,) = torch.autograd.grad(logits, purified, cotangent)
        gradients, index = _by_image(gradient[: len(image)], ctx.noise)
        r, first = ctx.weights.combine(gradients)
        n = gradients.shape[1]
        rows = torch.arange(len(index), device=first.device) * n + first
        with torch.enable_grad(), _purified_images(ctx.classifier, detach=False) as recomputed:
            leaf = image[rows].detach().requires_grad_()
            ctx.classifier(leaf, ctx.noise.rows(rows))
            (grafted,) = torch.autograd.grad(recomputed[0][: len(leaf)], leaf, r.view_as(leaf))
        return ctx.weights.with_memory(grafted, index).repeat_interleave(n, 0), None, None, None


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


def _by_image(rows: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    """Rows (B*n,C,H,W), image-major, as (B,n,D), and the index of each image, (B,)."""
    n = int((noise.index == noise.index[0]).sum())
    return rows.reshape(-1, n, rows[0].numel()), noise.index[::n]


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
