"""Denoising score matching: EDM's loss per example, its weight and its training noise levels.

Random numbers come from the caller.
"""

from torch import Tensor, nn

from common.checks.images import check_shape
from common.diffusion.denoisers import Denoiser
from common.diffusion.schedules import per_row


def edm_weight(sigma: Tensor, sigma_data: float = 0.5) -> Tensor:
    """``lambda(sigma) = (sigma^2 + sigma_d^2) / (sigma sigma_d)^2`` (Karras et al., arXiv 2206.00364), sigma's shape.

    With it the network inside an ``EDMDenoiser`` has a target of unit variance at every sigma.
    """
    return (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2


def edm_loss(
    denoiser: nn.Module,
    x0: Tensor,
    sigma: Tensor,
    z: Tensor,
    label: Tensor | None = None,
    sigma_data: float | None = None,
) -> Tensor:
    """EDM's loss per example, (B,): ``edm_weight(sigma) mean (D(x0 + sigma z, sigma, label) - x0)^2``.

    x0 and z are (B, C, H, W), model frame and standard normal; sigma is (B,), label (B,) or None. ``sigma_data`` None
    is the ``data_deviation`` of a ``Denoiser``, and 0.5 for other modules.
    """
    if sigma_data is None:
        sigma_data = denoiser.data_deviation if isinstance(denoiser, Denoiser) else 0.5
    denoised = check_shape("the denoiser", denoiser(x0 + per_row(sigma, x0) * z, sigma, label), x0)
    return edm_weight(sigma, sigma_data) * (denoised - x0).square().flatten(1).mean(1)


def draw_sigma_lognormal(z: Tensor, mean: float = -1.2, std: float = 1.2) -> Tensor:
    """EDM's training levels: ``ln sigma = mean + std z`` for standard normal z, of any shape (arXiv 2206.00364)."""
    return (mean + std * z).exp()
