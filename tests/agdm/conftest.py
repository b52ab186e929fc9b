"""A small exact world with a guidance, and a guidance network with derivatives in closed form."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from agdm.guidance import AdversarialGuidance
from agdm.networks import GuidanceNetwork
from common.exact import ExactDenoiser, GaussianMixture


class Linear(nn.Module):
    """latent = (1 + σ) A x, logits = (1 + σ) W x for images of D pixels: latent (B,F), logits (B,K)."""

    def __init__(self, pixels: int, features: int = 5, classes: int = 3, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.A = nn.Parameter(torch.randn(features, pixels, generator=generator, dtype=torch.float64))
        self.W = nn.Parameter(torch.randn(classes, pixels, generator=generator, dtype=torch.float64))

    def forward(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        y = (1 + sigma.expand(len(x))[:, None]) * x.flatten(1)
        return y @ self.A.mT.to(x.dtype), y @ self.W.mT.to(x.dtype)


@pytest.fixture
def linear() -> Callable[..., Linear]:
    return Linear


@pytest.fixture
def denoiser() -> ExactDenoiser:
    """Exact for four points in three classes with deviation 0.2, images (1,2,3)."""
    means = torch.randn(4, 1, 2, 3, generator=torch.Generator().manual_seed(9), dtype=torch.float64) / 2
    return ExactDenoiser(GaussianMixture(means, 0.2, labels=torch.tensor([0, 1, 2, 0])))


@pytest.fixture
def guidance() -> AdversarialGuidance:
    """Guidance by a small network that depends on the time."""
    torch.manual_seed(0)
    network = GuidanceNetwork(in_channels=1, num_classes=3, width=4, strides=(1, 2)).double()
    for block in network.blocks:
        nn.init.normal_(block.film.weight, std=0.3)
    return AdversarialGuidance(network, latent_scale=3.0, label_scale=5.0)
