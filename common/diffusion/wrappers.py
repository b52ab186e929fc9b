"""Denoisers around a denoiser: clipped, classifier-free guided, guided by a potential."""

from collections.abc import Callable

import torch
from torch import Tensor

from common.diffusion.denoisers import Denoiser
from common.diffusion.schedules import per_row


class Wrapper(Denoiser):
    """Denoiser around ``denoiser``, for the same data."""

    denoiser: Denoiser

    @property
    def data_deviation(self) -> float:
        return self.denoiser.data_deviation


class Clipped(Wrapper):
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


class ClassifierFree(Wrapper):
    """Classifier-free guidance (Ho and Salimans, arXiv 2207.12598) as a denoiser around a denoiser:

        D_w(x, sigma, y) = D(x, sigma) + w (D(x, sigma, y) - D(x, sigma)),

    w = 0 unconditional, 1 conditional, > 1 extrapolated. Without a label it is the unconditional D.
    """

    def __init__(self, denoiser: Denoiser, weight: float = 1.0) -> None:
        super().__init__()
        if denoiser.num_classes is None:
            raise ValueError("ClassifierFree needs a class-conditional denoiser; this one has num_classes=None")
        self.denoiser = denoiser
        self.weight = weight
        self._set_levels(denoiser.sigma_min, denoiser.sigma_max, denoiser.num_classes)

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        unconditional: Tensor = self.denoiser(x, sigma)
        if label is None:
            return unconditional
        conditional: Tensor = self.denoiser(x, sigma, label)
        return unconditional + self.weight * (conditional - unconditional)


class Guided(Wrapper):
    """Denoiser guided by a potential (classifier guidance, arXiv 2105.05233):

        D'(x, sigma, y) = D(x, sigma) + scale sigma^2 grad_x log p(y | x; sigma),

    which at scale 1 is the conditional D(x, sigma, y) by Bayes' rule. ``log_potential(x, sigma, label)`` returns
    log p(y | x; sigma) per row, (B,), up to terms free of x. The result is differentiable in x, through the gradient.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        log_potential: Callable[[Tensor, Tensor, Tensor | None], Tensor],
        scale: float = 1.0,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.log_potential = log_potential
        self.scale = scale
        self._set_levels(denoiser.sigma_min, denoiser.sigma_max, num_classes)

    def gradient(self, x: Tensor, sigma: Tensor, label: Tensor | None) -> Tensor:
        """grad_x log_potential, (B, C, H, W); part of the graph whenever x is."""
        recording = torch.is_grad_enabled() and x.requires_grad
        with torch.enable_grad():
            point = x if recording else x.detach().requires_grad_()
            total = self.log_potential(point, sigma, label).sum()
            (gradient,) = torch.autograd.grad(total, point, create_graph=recording)
        return gradient

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        guidance = self.scale * per_row(sigma, x) ** 2 * self.gradient(x, sigma, label)
        denoised: Tensor = self.denoiser(x, sigma)
        return denoised + guidance
