"""Bounded diffusion classifier: DC with bounded terms, for Lipschitz certificates."""

import math

from torch import Tensor

from common.checks.settings import check_optional, check_positive
from common.diffusion.denoisers import Denoiser
from common.diffusion.denoising_loss import edm_weight
from common.diffusion.wrappers import Clipped
from common.engine.engine import Engine
from common.noise import Noise
from common.units import to_model
from ndc.classifier import NoisedDiffusionClassifier
from ndc.nodes import Nodes
from ndc.noise_weights import NamedWeight, Weight
from ndc.posterior import Posterior


class BoundedDiffusionClassifier(NoisedDiffusionClassifier):
    """DC, the diffusion classifier of clean images, with terms that are bounded in two ways.

        logit_y = log p(y) - (1 / temperature) sum_i w_i e_iy,
        e_iy = min(E_iy - min_k E_ik, limit D / lambda(sigma_i)),
        E_iy = || clip(D(x0 + sigma_i z, sigma_i, y), -1, 1) - x0 ||^2.

    - The denoised image is clipped to the data's range (`Clipped`), in which every posterior mean of images lies.
    - At a node a class loses at most ``limit`` against the best class there, in units of EDM's normalised loss, in
      which an untrained denoiser loses 1. None: no limit. The loss of the best class is common to all classes.

    Clipping is required for any certificate. The limit keeps the estimate of the expected logits affordable
    (`ndc.lipschitz`): a term could otherwise be as large as 4 D. The draws needed grow in proportion to ``limit`` over
    the gap between classes, so the limit should be a few times the differences between classes. The gradient of a
    limited or clipped term is zero. A certificate is about this classifier: report and attack this one.

    Args:
        denoiser, num_classes, nodes, weight, posterior, engine: as for `NoisedDiffusionClassifier`.
        limit: see above.

    D = C H W is the dimension of an image. Raises ``ValueError`` as `NoisedDiffusionClassifier` does.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        num_classes: int,
        nodes: int | Nodes = 16,
        weight: NamedWeight | Weight = "lognormal",
        limit: float | None = 1.0,
        *,
        posterior: Posterior | None = None,
        engine: Engine | None = None,
    ) -> None:
        check_optional(check_positive, "limit, in units of EDM's loss,", limit, note="None is no limit")
        super().__init__(Clipped(denoiser), num_classes, 0.0, "dc", nodes, weight, posterior=posterior, engine=engine)
        self.limit = limit

    def losses(self, image: Tensor, noise: Noise | None = None) -> Tensor:
        """Bounded losses w_i e_iy, (T,B,K)."""
        return self.limited(self.unlimited(image, noise), image.shape[1:].numel())

    def unlimited(self, image: Tensor, noise: Noise | None = None) -> Tensor:
        """Losses w_i E_iy, (T,B,K)."""
        return super().losses(image, noise)

    def limited(self, losses: Tensor, dimension: int) -> Tensor:
        """w_i e_iy from the losses w_i E_iy, (T,B,K), of images of D = ``dimension`` numbers."""
        excess = losses - losses.amin(-1, keepdim=True)
        if self.limit is None:
            return excess
        limits = losses.new_tensor((self.bound.weight * self._limits(dimension)).tolist())
        return excess.minimum(limits.view(-1, 1, 1))

    def term_bounds(self, image: Tensor) -> Tensor:
        """Upper bounds on e_iy at an ``image`` (1,C,H,W) for any noise: (T,) float64.

        A clipped image is at most || 1 + |x0| || away from x0, hence min(limit D / lambda, sum_j (1 + |x0_j|)^2).
        """
        farthest = (1 + to_model(image).double().abs()).square().sum().cpu()
        return self._limits(image.shape[1:].numel()).minimum(farthest)

    def _limits(self, dimension: int) -> Tensor:
        """limit D / lambda(sigma_i), (T,)."""
        limit = math.inf if self.limit is None else self.limit
        return limit * dimension / edm_weight(self.bound.sigma, self.weight.sigma_data)
