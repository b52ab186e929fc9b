"""Guidance networks φ: (x, σ) -> a latent c_φ and the logits of p_φ, from one pass (AGDM, arXiv 2403.16067)."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class TimeEmbedding(nn.Module):
    """Noise level σ (B,) -> features (B, dim): sinusoids of the angle arctan σ, then an MLP.

    The angle is the natural time of a variance-preserving process (cos = s, sin = s σ): 0 for a clean image, π/2 for
    pure noise, and finite everywhere, where log σ is not.
    """

    def __init__(self, dim: int, frequencies: int = 8) -> None:
        super().__init__()
        self.frequencies: Tensor
        self.register_buffer("frequencies", 2.0 ** torch.arange(frequencies, device="cpu"), persistent=False)
        self.layers = nn.Sequential(nn.Linear(2 * frequencies, dim), nn.SiLU(), nn.Linear(dim, dim), nn.SiLU())

    def forward(self, sigma: Tensor) -> Tensor:
        phase = torch.atan(sigma)[:, None] * self.frequencies
        features: Tensor = self.layers(torch.cat((phase.cos(), phase.sin()), dim=1))
        return features


class FilmBlock(nn.Module):
    """Convolution, group norm, FiLM by the time features, SiLU.

    The scale and shift of FiLM (Perez et al., arXiv 1709.07871) start at zero: an untrained block ignores the time.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, time_dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1)
        self.norm = nn.GroupNorm(out_channels // math.gcd(8, out_channels), out_channels)
        self.film = nn.Linear(time_dim, 2 * out_channels)
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        scale, shift = self.film(time)[:, :, None, None].chunk(2, dim=1)
        return F.silu(self.norm(self.conv(x)) * (1 + scale) + shift)


class GuidanceNetwork(nn.Module):
    """φ: (x, σ) -> latent c_φ (B,F) and logits of p_φ (B,K), from one pass; a small body for small images.

    ``x`` = x0 + σ n (B,C,H,W), model frame, unscaled; ``sigma`` (B,) or (), 0 for a clean image. Inside, x is scaled
    to x / √(1+σ²), the state of a variance-preserving process.

    Attacks differentiate the guidance once more, hence the smooth activation; nothing is shared between the images of
    a batch, hence group norm. Block k has ``width * (k+1)`` channels and stride ``strides[k]``; the latent is the last
    block's spatial mean, so F = width * len(strides).

    Any module with this ``forward`` can stand in its place.
    """

    def __init__(
        self, in_channels: int = 3, num_classes: int = 10, width: int = 32, strides: tuple[int, ...] = (1, 2, 2)
    ) -> None:
        super().__init__()
        if not strides or min(in_channels, width, *strides) < 1 or num_classes < 2:
            got = f"in_channels={in_channels}, num_classes={num_classes}, width={width}, strides={tuple(strides)}"
            raise ValueError(f"channels, width and every stride must be >= 1 and num_classes >= 2; got {got}")
        self.config: dict[str, Any] = {
            "in_channels": in_channels,
            "num_classes": num_classes,
            "width": width,
            "strides": list(strides),
        }
        channels = [in_channels, *(width * (k + 1) for k in range(len(strides)))]
        self.time = TimeEmbedding(2 * width)
        self.blocks = nn.ModuleList(
            FilmBlock(c_in, c_out, stride, 2 * width)
            for c_in, c_out, stride in zip(channels[:-1], channels[1:], strides, strict=True)
        )
        self.head = nn.Linear(channels[-1], num_classes)

    def forward(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        sigma = sigma.to(x).expand(len(x))
        time = self.time(sigma)
        h = x / (1 + sigma**2).sqrt()[:, None, None, None]
        for block in self.blocks:
            h = block(h, time)
        latent = h.mean(dim=(2, 3))
        return latent, self.head(latent)
