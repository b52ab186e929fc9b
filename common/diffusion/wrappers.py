"""Clipping the denoised image, as DDPM samplers may do."""

from torch import Tensor

from common.diffusion.denoisers import Denoiser


class Clipped(Denoiser):
    """``clamp(D(x, sigma, y), -1, 1)``: a posterior mean of images lies in [-1,1], a network's may leave it.

    Guided diffusion's sampler does so at every step, and with it DiffPure's DDPM variant (arXiv 2205.07460). The
    gradient of a clipped value is zero: where much is clipped, an attack's gradient is masked.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser
        self._set_levels(denoiser.sigma_min, denoiser.sigma_max, denoiser.num_classes)

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        denoised: Tensor = self.denoiser(x, sigma, label)
        return denoised.clamp(-1, 1)
