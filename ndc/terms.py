"""The terms of the likelihood bound, for any nodes, images and classes, in full calls of the network."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.engine.engine import Calls, recomputed
from common.noise import Noise
from ndc.likelihood import Bound, noised_pair, pull_variate, squared_errors


@dataclass(frozen=True)
class Terms:
    """w_i || D(x_i, sigma_i, y) - target_i ||^2 of B images.

    Rows are (node, image, class), as many as a call takes at a time. What a node's noise is depends on the node and on
    the row of ``noise`` alone, whichever nodes, images and classes are asked for.

    Args:
        denoise: D(x, sigma, label) by rows.
        calls: how rows are divided into calls.
        bound: nodes, spreads and weights.
        antithetic: whether nodes 2j and 2j+1 see z_j and -z_j.
        classes: K.
        centre: what noise is added to, (B,C,H,W) in the model frame.
        anchor: a_y of `pull_variate`, (B,K,C,H,W), or None for no control variate.
        noise: one row per image.
        training: that of the denoiser.
    """

    denoise: Callable[[Tensor, Tensor, Tensor], Tensor]
    calls: Calls
    bound: Bound
    antithetic: bool
    classes: int
    centre: Tensor
    anchor: Tensor | None
    noise: Noise
    training: bool

    def __call__(self, nodes: Sequence[int], rows: Tensor | None = None, wanted: Tensor | None = None) -> Tensor:
        """(n,R,K) at n ``nodes`` of the images ``rows`` (R,), or of all; zero where ``wanted`` (R,K) is false."""
        x, noise = (self.centre, self.noise) if rows is None else (self.centre[rows], self.noise.rows(rows))
        anchor = self.anchor if rows is None or self.anchor is None else self.anchor[rows]
        size = self.calls.size(x)
        count = min(len(nodes), size)
        asked = self.classes if wanted is None else max(1, math.ceil(int(wanted.sum()) / max(1, len(wanted))))
        images = max(1, 4 * size // (count * asked))  # about four calls at a time, so that few are not full

        def block(b: slice, i: slice) -> Tensor:
            part = None if anchor is None else anchor[b]
            return self._block(nodes[i], x[b], part, noise.rows(b), None if wanted is None else wanted[b])

        blocks = [torch.cat([block(b, i) for i in slices(len(nodes), count)]) for b in slices(len(x), images)]
        return torch.cat(blocks, dim=1)

    def _block(
        self, nodes: Sequence[int], x: Tensor, anchor: Tensor | None, noise: Noise, wanted: Tensor | None
    ) -> Tensor:
        chosen = torch.tensor(list(nodes))
        sigma, spread, pull, weight = (
            x.new_tensor(v[chosen].tolist())
            for v in (self.bound.sigma, self.bound.spread, self.bound.pull, self.bound.weight)
        )
        z = self._normals(noise, nodes, x)  # here, so that a recomputation is handed the same numbers
        full = torch.ones(len(x), self.classes, dtype=torch.bool, device=x.device) if wanted is None else wanted
        image, label = full.nonzero(as_tuple=True)

        count = len(nodes) * len(image)
        asked = count if wanted is None else self.calls.even(count, x)

        def errors(rows: slice) -> Tensor:
            row = torch.arange(rows.start, rows.stop, device=x.device).clamp(max=count - 1)
            i, pair = row // len(image), row % len(image)
            b = image[pair]
            xt, target = noised_pair(x[b], z[i, b], spread[i], pull[i])
            return squared_errors(self.denoise, xt, sigma[i], target, label[pair])

        several = len(self.bound) * len(self.centre) * self.classes > self.calls.size(x)
        found = self.calls(recomputed(errors, several, self.training), asked, x)[:count]
        found = found.view(len(nodes), len(image))
        if wanted is not None:
            where = image * self.classes + label
            found = found.new_zeros(len(nodes), wanted.numel()).index_copy(1, where, found)
        found = found.view(len(nodes), len(x), self.classes)
        if anchor is not None:
            found = found - pull_variate(z, pull, anchor) * full
        return found * weight.view(-1, 1, 1)

    def _normals(self, noise: Noise, nodes: Sequence[int], like: Tensor) -> Tensor:
        """z (n,B,C,H,W) of some nodes: one draw each, or with alternating sign one for two neighbours."""
        if not self.antithetic:
            return noise.normals(nodes, like.shape[1:], like.dtype)
        sign = like.new_tensor([1.0 - 2 * (i % 2) for i in nodes]).view(-1, *(1,) * like.ndim)
        return sign * noise.normals([i // 2 for i in nodes], like.shape[1:], like.dtype)


def slices(length: int, size: int) -> list[slice]:
    """0 .. length-1 in pieces of ``size``."""
    return [slice(start, start + size) for start in range(0, length, size)]
