"""Gaussian mixture with Gaussian noise: density, score, denoiser and Bayes classifier in closed form.

For data x0 ~ sum_m w_m N(mu_m, s_m^2 I) and x = x0 + sigma n, the law of x is the mixture with variances
v_m = s_m^2 + sigma^2, so all four are exact at every noise level. Tests compare against them, and the synthetic data
set is drawn from the mixture.
"""

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from common.checks.settings import check_not_negative, check_optional, check_part, check_size

__all__ = ["ExactDenoiser", "GaussianMixture"]


class RandomSource(Protocol):
    """Source of random numbers for sampling, e.g. `common.noise.Noise`: a row of numbers for each of B samples."""

    def normal(self, step: int, shape: Sequence[int]) -> Tensor: ...

    def uniform(self, step: int, shape: Sequence[int]) -> Tensor: ...


class GaussianMixture(nn.Module):
    """Isotropic components ``w_m N(mu_m, s_m^2 I)`` in the model frame, each with a class.

    ``means`` (M, *event) fixes dtype and device; ``stds`` (M,) or () or a float, zero for a point mass; ``weights``
    (M,), uniform by default, normalised here; ``labels`` (M,) int64, the class of each component, by default its
    number. Below, x is (B, *event), sigma (B,) or () or a float, and label (B,) int64: None, or -1 in a row, for the
    whole mixture.
    """

    means: Tensor
    stds: Tensor
    log_weights: Tensor
    labels: Tensor

    def __init__(
        self,
        means: Tensor,
        stds: Tensor | float,
        weights: Tensor | None = None,
        labels: Tensor | None = None,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        if (
            not check_part("means", means, Tensor).is_floating_point()
            or means.ndim < 1
            or not bool(means.isfinite().all())
        ):
            raise ValueError(f"means must be finite floats (M, ...); got {means.dtype} of shape {tuple(means.shape)}")
        stds = check_part("stds", stds, Tensor) if isinstance(stds, Tensor) else check_not_negative("stds", stds)
        check_optional(check_size, "num_classes", num_classes)
        components = len(means)
        weights = torch.ones(components) if weights is None else check_part("weights", weights, Tensor)
        labels = torch.arange(components) if labels is None else check_part("labels", labels, Tensor)
        if weights.shape != (components,) or not bool(((weights > 0) & (weights < math.inf)).all()):
            raise ValueError(f"weights must be {components} positive numbers, one per component; got {weights}")
        if labels.shape != (components,) or labels.dtype != torch.int64:
            raise ValueError(f"labels must be {components} int64 classes, one per component; got {labels}")
        self.num_classes = int(labels.max()) + 1 if num_classes is None else num_classes
        if (classes := set(labels.tolist())) != set(range(self.num_classes)):
            raise ValueError(f"labels must use every class 0..{self.num_classes - 1}; got {sorted(classes)}")
        stds = torch.as_tensor(stds, dtype=means.dtype, device=means.device).expand(components)
        if not bool(((stds >= 0) & (stds < math.inf)).all()):
            raise ValueError(f"stds must be finite and not negative; got {stds}")
        self.register_buffer("means", means)
        self.register_buffer("stds", stds.clone())
        self.register_buffer("log_weights", weights.to(means).log().log_softmax(0))
        self.register_buffer("labels", labels.to(means.device))

    def _level(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """sigma as (B, 1) or (1, 1), to broadcast against components."""
        return torch.as_tensor(sigma, dtype=self.means.dtype, device=x.device).reshape(-1, 1)

    def _log_joint(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """log w_m N(x; mu_m, v_m I), (B, M)."""
        variance = self.stds**2 + self._level(x, sigma) ** 2
        square = (x[:, None] - self.means).flatten(2).square().sum(-1)
        dimension = self.means[0].numel()
        return self.log_weights - (square / variance + dimension * torch.log(2 * math.pi * variance)) / 2

    def _log_given(self, x: Tensor, sigma: Tensor | float, label: Tensor | None) -> Tensor:
        """log w_m|y N(x; mu_m, v_m I), (B, M): minus infinity for components of other classes."""
        joint = self._log_joint(x, sigma)
        if label is None:
            return joint
        other = (self.labels != label[:, None]) & (label[:, None] >= 0)
        prior = self.log_weights.expand(len(x), -1).masked_fill(other, -math.inf).logsumexp(1, keepdim=True)
        return joint.masked_fill(other, -math.inf) - prior

    def log_density(self, x: Tensor, sigma: Tensor | float = 0.0, label: Tensor | None = None) -> Tensor:
        """log p(x; sigma) or log p(x | label; sigma), (B,)."""
        return self._log_given(x, sigma, label).logsumexp(1)

    def _average(self, x: Tensor, sigma: Tensor | float, label: Tensor | None, own: Tensor, centre: Tensor) -> Tensor:
        """sum_m r_m (own_m x + centre_m mu_m), r_m = p(m | x): shared by score and denoiser."""
        posterior = self._log_given(x, sigma, label).softmax(1)
        centres = (posterior * centre) @ self.means.flatten(1)
        return ((posterior * own).sum(1, keepdim=True) * x.flatten(1) + centres).view_as(x)

    def score(self, x: Tensor, sigma: Tensor | float, label: Tensor | None = None) -> Tensor:
        """grad_x log p(x | label; sigma) = sum_m r_m (mu_m - x) / v_m, shape of x."""
        precision = 1 / (self.stds**2 + self._level(x, sigma) ** 2)
        return self._average(x, sigma, label, -precision, precision)

    def denoiser(self, x: Tensor, sigma: Tensor | float, label: Tensor | None = None) -> Tensor:
        """E[x0 | x, label] = sum_m r_m (s_m^2 x + sigma^2 mu_m) / v_m, shape of x."""
        noise, signal = self._level(x, sigma) ** 2, self.stds**2
        total = signal + noise
        return self._average(x, sigma, label, signal / total, noise / total)

    def bayes_logits(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """log p(y | x; sigma) for every class, (B, num_classes): the Bayes classifier of noisy data."""
        joint = self._log_joint(x, sigma).log_softmax(1)
        masks = [self.labels == y for y in range(self.num_classes)]
        return torch.stack([joint[:, mask].logsumexp(1) for mask in masks], dim=1)

    def sample(self, noise: RandomSource, step: int = 0) -> tuple[Tensor, Tensor]:
        """Samples x0 (B, *event) and their classes (B,), from the source's ``step`` and ``step + 1``."""
        u = noise.uniform(step, (1,)).to(self.means).contiguous()
        edges = self.log_weights.exp().cumsum(0)[:-1]
        component = torch.searchsorted(edges, u)[:, 0]
        z = noise.normal(step + 1, self.means.shape[1:]).to(self.means)
        std = self.stds[component].reshape(-1, *(1,) * (z.ndim - 1))
        return self.means[component] + std * z, self.labels[component]


class ExactDenoiser(nn.Module):
    """The mixture's denoiser as a module: ``forward(x, sigma, label=None)`` = E[x0 | x, label], in the dtype of x."""

    sigma_min = 0.0
    sigma_max = math.inf

    def __init__(self, mixture: GaussianMixture) -> None:
        super().__init__()
        check_part("mixture", mixture, GaussianMixture)
        self.mixture = mixture
        self.num_classes: int | None = mixture.num_classes

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        return self.mixture.denoiser(x, sigma, label).to(x.dtype)
