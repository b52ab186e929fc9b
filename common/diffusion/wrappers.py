"""Denoisers around a denoiser: clipped, classifier-free guided."""

from torch import Tensor

from common.checks.images import check_like
from common.checks.settings import check_number
from common.diffusion.denoisers import Denoiser, check_denoiser
from common.numerics.copies import copied


class Wrapper(Denoiser):
    """Denoiser around ``denoiser``, for the same data."""

    denoiser: Denoiser

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = check_denoiser("denoiser", denoiser)
        self.sigma_min, self.sigma_max = denoiser.sigma_min, denoiser.sigma_max
        self.num_classes = denoiser.num_classes

    @property
    def data_deviation(self) -> float:
        return self.denoiser.data_deviation


class Clipped(Wrapper):
    """``clamp(D(x, sigma, y), -1, 1)``: a posterior mean of images lies in [-1,1], a network's may leave it.

    Guided diffusion's sampler does so at every step, and with it DiffPure's DDPM variant (arXiv 2205.07460). The
    gradient of a clipped value is zero: where much is clipped, an attack's gradient is masked.
    """

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        return check_like("the denoiser", self.denoiser(x, sigma, label), x).clamp(-1, 1)


class ClassifierFree(Wrapper):
    """Classifier-free guidance (Ho and Salimans, arXiv 2207.12598) as a denoiser around a denoiser:

        D_w(x, sigma, y) = D(x, sigma) + w (D(x, sigma, y) - D(x, sigma)),

    w = 0 unconditional, 1 conditional, > 1 extrapolated. Without a label it is the unconditional D.
    """

    def __init__(self, denoiser: Denoiser, weight: float = 1.0) -> None:
        super().__init__(denoiser)
        if denoiser.num_classes is None:
            raise ValueError("ClassifierFree needs a class-conditional denoiser; this one has num_classes=None")
        self.weight = check_number("weight", weight)

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        unconditional = check_like("the denoiser", self.denoiser(*copied(x, sigma)), x)
        if label is None:
            return unconditional
        conditional = check_like("the denoiser", self.denoiser(x, sigma, label), x)
        return unconditional + self.weight * (conditional - unconditional)
