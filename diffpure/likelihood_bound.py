"""Bound on the log-likelihood of an image by a denoiser, and its gradient."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from common.checks.settings import check_one_of
from common.diffusion.bound_denoiser import BoundDenoiser
from common.diffusion.inner_gradients import as_variable, check_gradients_allowed, records_gradient
from common.diffusion.networks.layers import twice_differentiable
from common.diffusion.schedules import per_row

Weight = Literal["flat", "elbo"]

WEIGHTS: dict[str, Callable[[Tensor], Tensor]] = {"flat": torch.ones_like, "elbo": lambda sigma: sigma**-3}
"""w(sigma) by name."""


@dataclass(frozen=True)
class LikelihoodBound(BoundDenoiser):
    """Estimate of a bound on log p(x), from n levels and noises per image, without a class:

        L(x) = -(1/n) sum_j w(sigma_j) ||r_j||^2,    r_j = D(x + sigma_j z_j, sigma_j) - x,

    x (B,C,H,W) in the model frame. w = 1 for ``weight="flat"``; for "elbo" w = sigma^-3, with which the integral over
    all levels is log p(x) up to a constant. ``tensors`` hold the purifier's input x_in where ``eta`` is given.

    ``eta``: radius in the model frame of the ball around x_in that `project` projects onto, or None.
    """

    takes_gradient: ClassVar[bool] = True

    weight: Weight = "flat"
    eta: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_one_of("weight", self.weight, WEIGHTS)

    def gradient(self, x: Tensor, sigma: Tensor, z: Tensor | None) -> Tensor:
        """The gradient of L at x, through the denoiser: (B,C,H,W), differentiable while an outer one is recorded.

        sigma (B n,) and z (B n,C,H,W) have n rows for each image, one after the other; z None is no noise.
        """
        check_gradients_allowed("the likelihood bound")
        recording = records_gradient(x)
        with torch.enable_grad(), twice_differentiable():
            x = as_variable(x)
            rows, noisy, share = self._rows(x, sigma, z)
            errors = (self(noisy, sigma) - rows).square().flatten(1).sum(1)
            value = -(share * errors).sum()
            # always with a graph: PyTorch's formulas without one have other last bits, and so would the forward pass
            (gradient,) = torch.autograd.grad(value, x, create_graph=True)
        return gradient if recording else gradient.detach()

    def _rows(self, x: Tensor, sigma: Tensor, z: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """x and x + sigma_j z_j for each j, (B n,C,H,W), and w(sigma_j) / n, (B n,)."""
        n = draws_of(x, sigma)
        rows = x.repeat_interleave(n, 0) if n > 1 else x
        noisy = rows if z is None else rows + per_row(sigma, rows) * z
        return rows, noisy, WEIGHTS[self.weight](sigma) / n

    def project(self, x: Tensor) -> Tensor:
        """The nearest point to x with ||x - x_in||_inf <= eta; x itself without ``eta``."""
        if self.eta is None:
            return x
        (centre,) = self.tensors
        return centre + (x - centre).clamp(-self.eta, self.eta)


@dataclass(frozen=True)
class DistilledBound(LikelihoodBound):
    """`LikelihoodBound` whose gradient takes the denoiser for a constant, as score distillation does:

        g = (2/n) sum_j w(sigma_j) r_j,

    whose mean over z is 2 w sigma^2 times that of the score at x + sigma z. It costs no backward pass, and no attack
    needs second derivatives.
    """

    takes_gradient = False

    def gradient(self, x: Tensor, sigma: Tensor, z: Tensor | None) -> Tensor:
        rows, noisy, share = self._rows(x, sigma, z)
        g = 2 * per_row(share, rows) * (self(noisy, sigma) - rows)
        return g.view(len(x), draws_of(x, sigma), *x.shape[1:]).sum(1)


def draws_of(x: Tensor, sigma: Tensor) -> int:
    """n, the levels of each image: x has B rows, sigma B n."""
    return len(sigma) // len(x) if len(x) else 1
