"""DC with bounded terms: the diffusion classifier that a Lipschitz certificate can be given for."""

import math
from collections.abc import Sequence

from torch import Tensor

from common.diffusion.denoisers import Denoiser
from common.diffusion.losses import edm_weight
from common.diffusion.wrappers import Clipped
from common.engine.engine import BatchSize, Engine
from common.noise import Noise
from common.units import to_model
from ndc.classifier import NamedWeight, NoisedDiffusionClassifier
from ndc.likelihood import Nodes
from ndc.noise_weights import Weight


class BoundedDiffusionClassifier(NoisedDiffusionClassifier):
    """DC, the diffusion classifier of clean images, whose terms are bounded in two ways.

        logit_y = log p(y) - (1 / temperature) sum_i w_i e_iy,
        e_iy = min(E_iy - min_k E_ik, limit D / lambda(sigma_i)),
        E_iy = || clip(D(x0 + sigma_i z, sigma_i, y), -1, 1) - x0 ||^2.

    - The denoised image is clipped to the data's range (`Clipped`), in which every posterior mean of images lies.
    - At a node a class can lose at most ``limit`` against the best class there, in units of EDM's normalised loss, in
      which a denoiser that has learnt nothing loses 1. None: no limit. What the best class loses is common to all.

    Without the first nothing can be certified. The second keeps the estimate of the expected logits affordable
    (`ndc.lipschitz`), as a term could otherwise be as large as 4 D: it takes draws in proportion to ``limit`` over the
    gap between classes, so the limit should be a few times what classes differ by. Where a term is limited or clipped
    its gradient is zero. A certificate is about this classifier, so it is the one to report and to attack.

    Arguments as for `NoisedDiffusionClassifier`; an image with D = C H W numbers. Raises ``ValueError`` as it does.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        num_classes: int,
        nodes: int | Nodes = 16,
        weight: NamedWeight | Weight = "lognormal",
        limit: float | None = 1.0,
        *,
        temperature: float | None = None,
        log_prior: Sequence[float] | None = None,
        batch_size: BatchSize = 512,
        engine: Engine | None = None,
    ) -> None:
        if limit is not None and not 0 < limit < math.inf:
            raise ValueError(f"limit, in units of EDM's loss, must be positive, or None for no limit; got {limit}")
        super().__init__(
            Clipped(denoiser), num_classes, 0.0, "dc", nodes, weight,
            temperature=temperature, log_prior=log_prior, batch_size=batch_size, engine=engine,
        )  # fmt: skip
        self.limit = limit

    def losses(self, image: Tensor, noise: Noise | None = None) -> Tensor:
        return self.limited(self.unlimited(image, noise), image[0].numel())

    def unlimited(self, image: Tensor, noise: Noise | None = None) -> Tensor:
        """The terms w_i E_iy, (T,B,K)."""
        return super().losses(image, noise)

    def limited(self, losses: Tensor, dimension: int) -> Tensor:
        """The terms w_i e_iy of what `unlimited` gave, (T,B,K) for images of D = ``dimension`` numbers."""
        excess = losses - losses.amin(-1, keepdim=True)
        if self.limit is None:
            return excess
        most = losses.new_tensor((self.bound.weight * self._most(dimension)).tolist())
        return excess.minimum(most.view(-1, 1, 1))

    def reach(self, image: Tensor) -> Tensor:
        """The most that any e_iy can be at an ``image`` (1,C,H,W), whatever the noise: (T,) float64.

        A clipped image is at most || 1 + |x0| || away from x0, hence min(limit D / lambda, sum_j (1 + |x0_j|)^2).
        """
        farthest = (1 + to_model(image).double().abs()).square().sum().cpu()
        most = self._most(image[0].numel())
        return most.minimum(farthest)

    def _most(self, dimension: int) -> Tensor:
        """limit D / lambda(sigma_i), (T,)."""
        limit = math.inf if self.limit is None else self.limit
        return limit * dimension / edm_weight(self.bound.sigma, self.weight.sigma_data)
