"""Denoisers of networks that predict the score itself: the variance-exploding networks of Score-SDE."""

import math

from torch import Tensor, nn

from common.checks.images import check_shape
from common.checks.settings import check_count, check_flag, check_optional, check_part, check_positive
from common.diffusion.denoisers import Denoiser
from common.diffusion.schedules import per_row
from common.units import sigma_to_pixel, to_pixel


class ScoreDenoiser(Denoiser):
    """Denoiser of a network that predicts the score of an image whose variance explodes (NCSN++, arXiv 2011.13456):

        D = x + sigma^2 s(x, label),    s = grad_x log p(x; sigma).

    The label is sigma itself; or, with ``num_scales`` N, the index j of the trained level
    ``sigma_j = sigma_max (sigma_min / sigma_max)^(j / (N - 1))`` nearest in log sigma, int64 and *descending* in sigma.
    Rounding touches the label alone: the predicted noise, ``-sigma_j s``, is subtracted at the true sigma.

    ``centered=False``: a network that reads images in [0,1], its labels and score included. x, sigma, ``sigma_min`` and
    ``sigma_max`` here are of the model frame, where levels are twice and scores half as large.
    Unconditional. Raises ``ValueError`` for impossible levels.
    """

    def __init__(
        self,
        network: nn.Module,
        sigma_min: float = 0.02,
        sigma_max: float = 100.0,
        num_scales: int | None = None,
        centered: bool = False,
    ) -> None:
        super().__init__()
        check_part("network", network, nn.Module, "a module")
        check_positive("sigma_min", sigma_min)
        check_optional(check_count, "num_scales, the number of trained levels,", num_scales, 2)
        self.network, self.num_scales, self.centered = network, num_scales, check_flag("centered", centered)
        self._set_levels(sigma_min, sigma_max, None)

    def time_label(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Time label of the network at sigma, and the sigma (model frame) that it stands for; sigma's shape."""
        if self.num_scales is None:
            return sigma if self.centered else sigma_to_pixel(sigma), sigma
        step = math.log(self.sigma_min / self.sigma_max) / (self.num_scales - 1)
        index = ((sigma / self.sigma_max).log() / step).round().clamp(0, self.num_scales - 1)
        return index.long(), self.sigma_max * (step * index).exp()

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        self.one_hot(x, label)  # raises for a label
        sigma = sigma.to(x).expand(len(x))
        time_label, level = self.time_label(sigma)
        image = x if self.centered else to_pixel(x)
        score = check_shape("a denoiser's network", self.network(image, time_label), x).to(x.dtype)
        return x + per_row(sigma * level, x) * (score if self.centered else score / 2)
