"""Weights of noise levels in a likelihood bound: the factors w(sigma) of its squared errors.

Everything here is in the model frame and float64.
Sources: arXiv 2206.00364 (EDM) for the log-normal weight; arXiv 2402.02316 (v2) for the others.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from common.checks.settings import check_number, check_part, check_positive
from common.diffusion.denoising_loss import edm_weight
from common.naming.choices import choose

NamedWeight = Literal["lognormal", "reference", "narrow", "elbo", "flat"]


class Weight(ABC):
    """Weight of a noise level: w(sigma) = lambda(sigma) density(sigma), on float64 tensors of any shape.

    lambda is EDM's loss weight, (sigma^2 + sigma_data^2) / (sigma sigma_data)^2.
    """

    sigma_data: float

    def __call__(self, sigma: Tensor) -> Tensor:
        """w(sigma)."""
        return edm_weight(sigma, self.sigma_data) * self.density(sigma)

    def of_nodes(self, sigma: Tensor, width: Tensor) -> Tensor:
        """Weights of quadrature nodes: w(sigma) width, shapes (T,)."""
        return self(sigma) * width

    @abstractmethod
    def density(self, sigma: Tensor) -> Tensor:
        """w / lambda: the weight of a unit of EDM's normalised loss at ``sigma``."""

    @abstractmethod
    def mass(self, sigma: Tensor) -> Tensor:
        """Antiderivative of ``density``."""

    @abstractmethod
    def inverse(self, mass: Tensor) -> Tensor:
        """Noise level with this ``mass``."""

    @abstractmethod
    def temperature(self, dimension: int) -> float:
        """Default divisor of the weighted sum in a logit, for an image of D = ``dimension`` numbers."""


@dataclass(frozen=True)
class LogNormal(Weight):
    """EDM's training weight: w = lambda(sigma) p(sigma) with ln sigma ~ N(mean, std^2).

        p(sigma) = total / (sigma std sqrt(2 pi)) exp(-(ln sigma - mean)^2 / (2 std^2)),   total = 1 for a density

    A denoiser should be read with the weight that it was trained with (arXiv 2402.02316, appendix C.2).
    The sum is divided by D, the paper's mean over dimensions; by nodes it is not, since the widths add up to the range.
    With ``temperature=1`` instead, the weight is within a factor of two of the ELBO's 1 / sigma^3 for
    0.5 <= sigma <= 3, so that on noisy images the posterior is roughly calibrated.
    """

    mean: float = -1.2
    std: float = 1.2
    sigma_data: float = 0.5
    total: float = 1.0

    def __post_init__(self) -> None:
        check_positive("std of a log-normal weight", self.std)
        check_positive("sigma_data of a log-normal weight", self.sigma_data)
        check_positive("total of a log-normal weight", self.total)
        check_number("mean of a log-normal weight, that of ln sigma,", self.mean)

    def density(self, sigma: Tensor) -> Tensor:
        exponent = -((sigma.log() - self.mean) ** 2) / (2 * self.std**2)
        return self.total * exponent.exp() / (sigma * self.std * math.sqrt(2 * math.pi))

    def mass(self, sigma: Tensor) -> Tensor:
        below: Tensor = torch.special.ndtr((sigma.log() - self.mean) / self.std)
        return self.total * below

    def inverse(self, mass: Tensor) -> Tensor:
        normal: Tensor = torch.special.ndtri(mass / self.total)
        return (self.mean + self.std * normal).exp()

    def temperature(self, dimension: int) -> float:
        return float(dimension)


def narrow_weight(mean: float = -1.2, std: float = 1.2, sigma_data: float = 0.5) -> LogNormal:
    """Log-normal weight of the published code, whose exponent -(ln sigma - mean)^2 / 2 * std^2 multiplies by std^2.

    That is a log-normal of standard deviation 1/std with a total of 1/std^2 = 0.694: more weight near the mean, less on
    large sigma. For any nodes; `ReferenceWeight` is the published sum.
    """
    return LogNormal(mean, 1 / std, sigma_data, total=1 / std**2)


@dataclass(frozen=True)
class ReferenceWeight(LogNormal):
    """Weight of the published code: lambda and the noise at a node, the density at the left end of its interval.

        w_i width_i = lambda(sigma_i) p(sigma_i - width) width,    p of `narrow_weight`

    For nodes of the rule "reference", on which the loop of the published code runs; together they reproduce its logits,
    so that published numbers can be compared. `narrow_weight` has density and lambda at the same level: its differences
    between classes are 1 to 6 % off with 124 nodes.
    """

    std: float = 1 / 1.2
    total: float = 1 / 1.2**2

    def of_nodes(self, sigma: Tensor, width: Tensor) -> Tensor:
        return edm_weight(sigma, self.sigma_data) * self.density(sigma - width) * width


@dataclass(frozen=True)
class ELBO(Weight):
    """ELBO weight w = 1 / sigma^3: logit differences are log-likelihood ratios in nats.

    The sum over dimensions is not divided. The limits of the nodes then cost an error in nats: 0.03 to 0.16 on small
    mixtures for the default limit of 3, O(sigma_max^-2). ``sigma_data`` only places equal nodes:
    density = sigma_data^2 / (sigma (sigma^2 + sigma_data^2)).
    """

    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        check_positive("sigma_data of the ELBO weight", self.sigma_data)

    def density(self, sigma: Tensor) -> Tensor:
        return self.sigma_data**2 / (sigma * (sigma**2 + self.sigma_data**2))

    def mass(self, sigma: Tensor) -> Tensor:
        return -0.5 * torch.log1p((self.sigma_data / sigma) ** 2)

    def inverse(self, mass: Tensor) -> Tensor:
        return self.sigma_data / torch.expm1(-2 * mass).sqrt()

    def temperature(self, dimension: int) -> float:
        return 1.0


@dataclass(frozen=True)
class Flat(Weight):
    """Flat weight w = 1, as in the published Lipschitz script. Equal nodes are the middles of equal widths."""

    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        check_positive("sigma_data of the flat weight", self.sigma_data)

    def __call__(self, sigma: Tensor) -> Tensor:
        return torch.ones_like(sigma)

    def density(self, sigma: Tensor) -> Tensor:
        """1, not w / lambda: the nodes are spread over sigma itself."""
        return torch.ones_like(sigma)

    def mass(self, sigma: Tensor) -> Tensor:
        return sigma

    def inverse(self, mass: Tensor) -> Tensor:
        return mass

    def temperature(self, dimension: int) -> float:
        return float(dimension)


WEIGHTS: dict[str, Weight] = {
    "lognormal": LogNormal(),
    "reference": ReferenceWeight(),
    "narrow": narrow_weight(),
    "elbo": ELBO(),
    "flat": Flat(),
}


def weight_of(weight: str | Weight) -> Weight:
    """A weight by its name, or the weight itself. Raises ``ValueError`` for an unknown name."""
    if isinstance(weight, Weight):
        return weight
    return choose("weight", WEIGHTS, check_part("weight", weight, str, "a name or a Weight"), " or a weight object")
