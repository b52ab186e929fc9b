"""A guidance network whose every derivative can be written down."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn


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
