r"""Likelihood bounds of a class-conditional denoiser: DC, EPNDC and APNDC as one weighted sum of squared errors.

Given an input at noise level sigma_tau, x_tau = x_0 + sigma_tau n (sigma_tau = 0: clean),

    log p(x_tau | y)  >=  C - sum_i w_i E_z || D(x_tau + u_i z, sigma_i, y) - (x_tau - (sigma_tau^2 / u_i) z) ||^2,
    u_i = sqrt(sigma_i^2 - sigma_tau^2),        z ~ N(0, I),        C the same for every class y.

- DC is sigma_tau = 0: noise sigma_i around x_0, target x_0.
- EPNDC is the general case. Its target is a *Noise2Noise* target: a second noisy copy of x_0 whose noise is independent
  of the noise in x_tau + u_i z. It is the paper's difference of posterior means in another form, because
  m_q - m_p = (1 - sigma_t^2 / sigma_{t+1}^2) (target - D) at sigma_i = sigma_{t+1}.
- APNDC is DC around x_0^ = D(x_tau, sigma_tau), an unconditional estimate of x_0, on nodes above sigma_tau. It bounds
  not log p(x_tau | y) but its average over x_0^ + sigma_tau n: the mean of EPNDC over such re-noised estimates.

In continuous time the sum is int w(sigma) E||.||^2 d sigma, and for w = 1/sigma^3 and the exact denoiser the bound is
tight: DC's class differences are the log-likelihood ratios of clean data, EPNDC's those of data at sigma_tau. Over
[lower, upper] instead of (sigma_tau, inf) they are, without error,

    E_z log p_lower(x_tau + u(lower) z | y)  -  E_z log p_upper(x_tau + u(upper) z | y)  +  C,

so that the limits cost O(lower^2 - sigma_tau^2) + O(upper^-2).

Everything here is in the model frame; an image has D = C H W numbers. Nodes and weights are float64.
Weights are in `ndc.noise_weights`, nodes in `ndc.nodes`. Source: arXiv 2402.02316 (v2).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.noise import Noise
from ndc.nodes import Nodes
from ndc.noise_weights import Weight


def chain_ratio(sigma: Tensor, width: Tensor, sigma_tau: float) -> Tensor:
    """Weight of a step in the EPNDC bound of a Markov chain, relative to DC's w_t.

    For the step from s = sigma_{t+1} = ``sigma`` to sigma_t = ``sigma - width`` > sigma_tau it is

        (1 - sigma_t^2 / s^2)^2 w_t^(tau) / w_t = (s^2 - sigma_tau^2) / (sigma_t^2 - sigma_tau^2) (sigma_t + s) / (2 s),
        w_t^(tau) = (s^2 - sigma_tau^2) / (2 (sigma_t^2 - sigma_tau^2) (s^2 - sigma_t^2)),    w_t = (s - sigma_t) / s^3.

    Times w_t it is the derived weight, on || target - D ||^2 in place of || m_q - m_p ||^2; times another weight it is
    the paper's practical one, w^_t w_t^(tau) / w_t. It tends to 1 as the grid is refined, where the derived weight is
    1 / sigma^3 whatever sigma_tau; on a given grid it behaves like (k + 1) / k at the k-th step from sigma_tau, so that
    a sum over T steps is off by O(ln T / T).
    Shapes (T,) -> (T,). Source: arXiv 2402.02316 (v2), theorem 3.2 and appendix A.6.
    """
    sigma_t = sigma - width
    return (sigma**2 - sigma_tau**2) / (sigma_t**2 - sigma_tau**2) * (sigma_t + sigma) / (2 * sigma)


@dataclass(frozen=True)
class Bound:
    """sum_i weight_i || D(x + spread_i z_i, sigma_i, y) - (x - pull_i z_i) ||^2: vectors (T,), float64, model frame.

    ``antithetic``: z_{2j+1} = -z_{2j}; otherwise all z_i are independent.
    """

    sigma: Tensor
    spread: Tensor
    pull: Tensor
    weight: Tensor
    antithetic: bool = False

    @classmethod
    def of(cls, nodes: Nodes, weight: Weight, lower: float, upper: float, sigma_tau: float = 0.0) -> "Bound":
        """The bound for an input at noise level ``sigma_tau`` (0: clean) with ``sigma_tau <= lower < upper``."""
        chain = sigma_tau > 0 and nodes.rule == "linspace"
        # The step that ends in sigma_tau itself is the reconstruction term: the paper's sum starts at t = tau + 1.
        sigma, width = nodes.place(weight, lower, upper, skip=int(chain and lower == sigma_tau))
        spread = ((sigma - sigma_tau) * (sigma + sigma_tau)).sqrt()
        w = weight.of_nodes(sigma, width)
        if chain:
            w = w * chain_ratio(sigma, width, sigma_tau)
        return cls(sigma, spread, sigma_tau**2 / spread, w, nodes.antithetic)

    def __len__(self) -> int:
        return len(self.sigma)

    def at(self, nodes: Sequence[int], like: Tensor) -> "Bound":
        """Its vectors at n ``nodes``, (n,), in the dtype and on the device of ``like``."""
        vectors = torch.stack((self.sigma, self.spread, self.pull, self.weight))[:, list(nodes)]
        sigma, spread, pull, weight = vectors.to(like, non_blocking=like.is_cuda)
        return Bound(sigma, spread, pull, weight, self.antithetic)

    def normals(self, noise: Noise, nodes: Sequence[int], like: Tensor) -> Tensor:
        """z_i (n,B,C,H,W) of n ``nodes`` for images ``like`` (B,C,H,W): a function of the node and the noise alone."""
        if not self.antithetic:
            return noise.normals(nodes, like.shape[1:], like.dtype)
        sign = torch.tensor([1.0 - 2 * (i % 2) for i in nodes]).to(like, non_blocking=like.is_cuda)
        sign = sign.view(-1, *(1,) * like.ndim)
        return sign * noise.normals([i // 2 for i in nodes], like.shape[1:], like.dtype)


def noised_pair(x: Tensor, z: Tensor, spread: Tensor, pull: Tensor) -> tuple[Tensor, Tensor]:
    """Input and target of the denoiser: x + spread z and x - pull z.

    x (B,C,H,W), z (n,B,C,H,W), spread and pull (n,) -> two tensors (n,B,C,H,W); or row by row, with z (B,C,H,W) and
    spread and pull (B,).
    """
    column = (-1,) + (1,) * (z.ndim - 1)
    return x + spread.view(column) * z, x - pull.view(column) * z


def pull_variate(z: Tensor, pull: Tensor, anchor: Tensor) -> Tensor:
    """Control variate of EPNDC: an estimate, of mean zero, of the noise that its target adds to the squared error.

    With target = x - pull z the squared error holds 2 pull z^T D(x + spread z, sigma_i, y). Near sigma_tau, where
    pull = sigma_tau^2 / spread is large, D hardly depends on z, so that most of this is

        2 pull z^T a_y,        a_y = D(x, sigma_tau, y),

    and a_y is a function of x alone: E_z of it is zero. The squared error less this has therefore the same expectation,
    for any denoiser, x and node, and so have its gradients in x. The variance of EPNDC's class differences falls 23
    times on the exact mixture of tests/ndc, 6 times beyond antithetic noise; with the small denoiser of digits 2 to 8
    times, and up to 2 times beyond antithetic noise.
    z (n,B,C,H,W), pull (n,), anchor (B,k,C,H,W), the a_y -> (n,B,k).
    """
    return 2 * pull.view(-1, 1, 1) * torch.einsum("nbd,bkd->nbk", z.flatten(2), anchor.flatten(2))


def squared_errors(denoised: Tensor, target: Tensor) -> Tensor:
    """|| denoised - target ||^2 row by row, summed over the D numbers of an image: two (R,C,H,W) -> (R,)."""
    return (denoised - target).square().flatten(1).sum(1)
