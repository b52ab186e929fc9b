"""Terms of the likelihood bound for any nodes, images and classes, evaluated in micro-batches."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from common.diffusion.denoisers import Denoiser
from common.engine.engine import Engine
from common.engine.micro_batches import recomputed
from common.noise import Noise
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
        engine: runs the denoiser.
        denoiser: class-conditional D(x, sigma, y).
        bound: noise levels, spreads and weights of T nodes.
        inputs: the images.
        classes: K.
        temperature: divisor of the losses.
    """

    engine: Engine
    denoiser: Denoiser
    bound: Bound
    inputs: BoundInput
    classes: int
    temperature: float

    def over(self, bound: Bound, stream: str) -> "LikelihoodTerms":
        """Terms of the same images over other nodes, with independent noise: the ``stream`` of their own."""
        return replace(self, bound=bound, inputs=replace(self.inputs, noise=self.inputs.noise.stream(stream)))

    def __call__(self, nodes: Sequence[int], rows: Tensor, candidates: Tensor) -> Tensor:
        """Terms (n,R,K) at n ``nodes`` of the images ``rows`` (R,); zero where ``candidates`` (R,K) is False."""
        return -self.losses(nodes, rows, candidates) / self.temperature

    def losses(self, nodes: Sequence[int], rows: Tensor | None = None, candidates: Tensor | None = None) -> Tensor:
        """Losses (n,R,K); all images and classes by default.

        Blocks of nodes and images, each of about `_CALLS_PER_BLOCK` calls of the denoiser.
        """
        inputs = self.inputs if rows is None else self.inputs.rows(rows)
        micro_batches, x = self.engine.micro_batches, inputs.centre
        size = micro_batches.size(x)
        several = len(self.bound) * len(self.inputs) * self.classes > size
        nodes_per_block = min(len(nodes), size)
        classes = self.classes if candidates is None else _mean_count(candidates)
        columns = []
        for images in slices(len(x), max(1, _CALLS_PER_BLOCK * size // (nodes_per_block * classes))):
            column = []
            for part in slices(len(nodes), nodes_per_block):
                block = self._block(
                    nodes[part], inputs.rows(images), None if candidates is None else candidates[images]
                )
                count = len(block) if candidates is None else micro_batches.rounded(len(block), x)
                evaluate = recomputed(block.errors, self.denoiser.training) if several else block.errors
                errors = []
                for call in micro_batches.calls(count, x):
                    with call as network_rows:
                        errors.append(evaluate(network_rows))
                column.append(block.losses(torch.cat(errors)))
            columns.append(torch.cat(column))
        return torch.cat(columns, dim=1)

    def _block(self, nodes: Sequence[int], inputs: BoundInput, candidates: Tensor | None) -> "_Block":
        """The block of some nodes and images. Its noise is drawn here, once, outside of what is recomputed."""
        x = inputs.centre
        bound, z = self.bound.at(nodes, x), self.bound.normals(inputs.noise, nodes, x)
        if candidates is not None:
            return _Block(self.engine, self.denoiser, bound, inputs, z, candidates, candidates.nonzero(as_tuple=True))
        images, classes = (torch.arange(count, device=x.device) for count in (len(x), self.classes))
        pairs = images.repeat_interleave(self.classes), classes.repeat(len(x))
        every = x.new_ones(len(x), self.classes, dtype=torch.bool)
        return _Block(self.engine, self.denoiser, bound, inputs, z, every, pairs)


@dataclass(frozen=True)
class _Block:
    """Every node of ``bound``, with the noise z (n,R,C,H,W), for the P pairs of an image and a class in ``mask`` (R,K).

    ``pairs`` are their images and classes, (P,) each: the host waits for a device to know which classes remain.
    Network rows are node-major: node, pair.
    """

    engine: Engine
    denoiser: Denoiser
    bound: Bound
    inputs: BoundInput
    z: Tensor
    mask: Tensor
    pairs: tuple[Tensor, ...]

    @property
    def image(self) -> Tensor:
        return self.pairs[0]

    @property
    def label(self) -> Tensor:
        return self.pairs[1]

    def __len__(self) -> int:
        return len(self.bound) * len(self.image)

    def errors(self, rows: slice) -> Tensor:
        """Squared errors of some network rows; rows beyond the last repeat it."""
        row = torch.arange(rows.start, rows.stop, device=self.z.device).clamp(max=len(self) - 1)
        i, pair = row // len(self.image), row % len(self.image)
        b = self.image[pair]
        xt, target = noised_pair(self.inputs.centre[b], self.z[i, b], self.bound.spread[i], self.bound.pull[i])
        return squared_errors(self.engine.denoise(self.denoiser, xt, self.bound.sigma[i], self.label[pair]), target)

    def losses(self, errors: Tensor) -> Tensor:
        """Losses (n,R,K) from the squared errors of all rows, less EPNDC's control variate where there is an anchor."""
        n, errors = len(self.bound), errors[: len(self)].view(len(self.bound), len(self.image))
        if len(self.image) < self.mask.numel():
            place = self.image * self.mask.shape[1] + self.label
            errors = errors.new_zeros(n, self.mask.numel()).index_copy(1, place, errors)
        errors = errors.view(n, *self.mask.shape)
        if self.inputs.anchor is not None:
            errors = errors - pull_variate(self.z, self.bound.pull, self.inputs.anchor) * self.mask
        return errors * self.bound.weight.view(-1, 1, 1)


def slices(length: int, size: int) -> list[slice]:
    """0 .. length-1 in slices of ``size``."""
    return [slice(start, start + size) for start in range(0, length, size)]


def _mean_count(candidates: Tensor) -> int:
    """Mean number of candidate classes per image, rounded up."""
    return max(1, math.ceil(int(candidates.sum()) / max(1, len(candidates))))
