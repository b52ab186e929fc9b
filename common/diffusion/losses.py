"""Denoising score matching: per-example losses of a denoiser and distributions of training noise levels.

Every loss is a weighted squared error of the denoiser, ``w(sigma) mean_pixels (D(x0 + sigma z, sigma, y) - x0)^2``;
each function's name gives the weight. Random numbers come from the caller.
"""

from torch import Tensor, nn

from common.diffusion.denoisers import Denoiser
from common.diffusion.schedules import Schedule, per_row


def edm_weight(sigma: Tensor, sigma_data: float = 0.5) -> Tensor:
    """``lambda(sigma) = (sigma^2 + sigma_d^2) / (sigma sigma_d)^2`` (Karras et al., arXiv 2206.00364), sigma's shape.

    With it the network inside an ``EDMDenoiser`` has a target of unit variance at every sigma.
    """
    return (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2


def _squared_error(denoiser: nn.Module, x0: Tensor, sigma: Tensor, z: Tensor, label: Tensor | None) -> Tensor:
    denoised: Tensor = denoiser(x0 + per_row(sigma, x0) * z, sigma, label)
    return (denoised - x0).square().flatten(1).mean(1)


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
    return edm_weight(sigma, sigma_data) * _squared_error(denoiser, x0, sigma, z, label)


def eps_loss(denoiser: nn.Module, x0: Tensor, sigma: Tensor, z: Tensor, label: Tensor | None = None) -> Tensor:
    """The noise-prediction loss of Ho et al. (arXiv 2006.11239) per example, (B,).

    ``mean (eps - z)^2`` with ``eps = (x - D)/sigma``, which is the denoiser's error with weight ``1/sigma^2``.
    Shapes as for ``edm_loss``.
    """
    return _squared_error(denoiser, x0, sigma, z, label) / sigma**2


def draw_sigma_lognormal(z: Tensor, mean: float = -1.2, std: float = 1.2) -> Tensor:
    """EDM's training levels: ``ln sigma = mean + std z`` for standard normal z, of any shape (arXiv 2206.00364)."""
    return (mean + std * z).exp()


def draw_sigma_uniform_time(schedule: Schedule, u: Tensor, t_min: float = 1e-5) -> Tensor:
    """Levels at times uniform on [t_min, t_max], u uniform on (0,1): the training of the eps-networks."""
    return schedule.sigma(t_min + (schedule.t_max - t_min) * u)
