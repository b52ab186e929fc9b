"""Terms of the likelihood bound for any nodes, images and classes, evaluated in micro-batches."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.engine.micro_batches import recomputed
from common.noise import Noise
from ndc.batched import BatchedDenoiser
from ndc.likelihood import Bound, noised_pair, pull_variate, squared_errors

_CALLS_PER_BLOCK = 4  # at most one call of a block has fewer rows than the batch size


@dataclass(frozen=True)
class BoundInput:
    """Images at which a bound is evaluated.

    Args:
        centre: images that noise is added to, (B,C,H,W) in the model frame.
        anchor: a_y of `pull_variate`, (B,K,C,H,W); None for no control variate.
        noise: one row per image.
    """

    centre: Tensor
    anchor: Tensor | None
    noise: Noise

    def __len__(self) -> int:
        return len(self.centre)

    def rows(self, rows: slice | Tensor) -> "BoundInput":
        """Input of the bound for some of the images."""
        return BoundInput(self.centre[rows], None if self.anchor is None else self.anchor[rows], self.noise.rows(rows))


@dataclass(frozen=True)
class LikelihoodTerms:
    """Terms of the logits of B images.

        term_iy = -loss_iy / temperature,    loss_iy = w_i || D(x_i, sigma_i, y) - target_i ||^2

    The noise of a node depends on the node and the image's row of ``noise`` alone, not on which nodes, images and
    classes are evaluated. Network rows are (node, image, class).

    Args:
        denoise: class-conditional D(x, sigma, y).
        bound: noise levels, spreads and weights of T nodes.
        inputs: the images.
        classes: K.
        temperature: divisor of the losses.
    """

    denoise: BatchedDenoiser
    bound: Bound
    inputs: BoundInput
    classes: int
    temperature: float

    def __call__(self, nodes: Sequence[int], rows: Tensor, candidates: Tensor) -> Tensor:
        """Terms (n,R,K) at n ``nodes`` of the images ``rows`` (R,); zero where ``candidates`` (R,K) is False."""
        return -self.losses(nodes, rows, candidates) / self.temperature

    def losses(self, nodes: Sequence[int], rows: Tensor | None = None, candidates: Tensor | None = None) -> Tensor:
        """Losses (n,R,K); all images and classes by default."""
        inputs = self.inputs if rows is None else self.inputs.rows(rows)
        size = self.denoise.micro_batches.size(inputs.centre)
        nodes_per_block = min(len(nodes), size)
        classes = self.classes if candidates is None else _mean_count(candidates)
        images_per_block = max(1, _CALLS_PER_BLOCK * size // (nodes_per_block * classes))
        blocks = []
        for images in slices(len(inputs), images_per_block):
            part, alive = inputs.rows(images), None if candidates is None else candidates[images]
            losses = [self._block(nodes[i], part, alive) for i in slices(len(nodes), nodes_per_block)]
            blocks.append(torch.cat(losses))
        return torch.cat(blocks, dim=1)

    def _block(self, nodes: Sequence[int], inputs: BoundInput, candidates: Tensor | None) -> Tensor:
        """Losses (n,R,K) of all R images of ``inputs``, less EPNDC's control variate where there is an anchor."""
        x, bound = inputs.centre, self.bound.at(nodes, inputs.centre)
        z = self.bound.normals(inputs.noise, nodes, x)  # outside of the recomputed function: drawn once
        mask = torch.ones(len(x), self.classes, dtype=torch.bool, device=x.device) if candidates is None else candidates
        rows = _Rows(self.denoise, bound, x, z, *mask.nonzero(as_tuple=True))
        micro_batches = self.denoise.micro_batches
        padded = len(rows) if candidates is None else micro_batches.rounded(len(rows), x)
        several = len(self.bound) * len(self.inputs) * self.classes > micro_batches.size(x)
        function = recomputed(rows.errors, self.denoise.denoiser.training) if several else rows.errors
        errors = micro_batches.map(function, padded, x)[: len(rows)].view(len(nodes), len(rows.image))
        if candidates is not None:
            place = rows.image * self.classes + rows.label
            errors = errors.new_zeros(len(nodes), mask.numel()).index_copy(1, place, errors)
        errors = errors.view(len(nodes), len(x), self.classes)
        if inputs.anchor is not None:
            errors = errors - pull_variate(z, bound.pull, inputs.anchor) * mask
        return errors * bound.weight.view(-1, 1, 1)


@dataclass(frozen=True)
class _Rows:
    """Network rows of one block: every node for P pairs of an ``image`` (P,) and a class ``label`` (P,), node-major."""

    denoise: BatchedDenoiser
    bound: Bound
    x: Tensor
    z: Tensor
    image: Tensor
    label: Tensor

    def __len__(self) -> int:
        return len(self.bound) * len(self.image)

    def errors(self, rows: slice) -> Tensor:
        """Squared errors of some rows; rows beyond the last repeat it."""
        row = torch.arange(rows.start, rows.stop, device=self.x.device).clamp(max=len(self) - 1)
        i, pair = row // len(self.image), row % len(self.image)
        b = self.image[pair]
        xt, target = noised_pair(self.x[b], self.z[i, b], self.bound.spread[i], self.bound.pull[i])
        return squared_errors(self.denoise, xt, self.bound.sigma[i], target, self.label[pair])


def slices(length: int, size: int) -> list[slice]:
    """0 .. length-1 in slices of ``size``."""
    return [slice(start, start + size) for start in range(0, length, size)]


def _mean_count(candidates: Tensor) -> int:
    """Mean number of candidate classes per image, rounded up."""
    return max(1, math.ceil(int(candidates.sum()) / max(1, len(candidates))))
