"""Guidance networks φ: (x, σ) -> a latent c_φ and the logits of p_φ, from one pass (AGDM, arXiv 2403.16067).

Attacks differentiate the guidance once more: use smooth activations (SiLU, not ReLU). Batch norm is sound here, since φ
guides and is attacked in eval mode, where images are independent; group norm keeps them so in training as well.
"""

import math
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.checks.settings import check_flag, check_optional, check_part, check_sequence, check_size, check_text
from common.units import to_pixel


class TimeEmbedding(nn.Module):
    """Noise level σ (B,) -> features (B, dim): sinusoids of the angle arctan σ, then an MLP.

    The angle is the natural time of a variance-preserving process (cos = s, sin = s σ): 0 for a clean image, π/2 for
    pure noise, and finite everywhere, where log σ is not.
    """

    def __init__(self, dim: int, frequencies: int = 8) -> None:
        super().__init__()
        self.frequencies: Tensor  # on the CPU even where a checkpoint's network is built without memory
        self.register_buffer("frequencies", 2.0 ** torch.arange(frequencies, device="cpu"), persistent=False)
        self.layers = nn.Sequential(nn.Linear(2 * frequencies, dim), nn.SiLU(), nn.Linear(dim, dim), nn.SiLU())

    def forward(self, sigma: Tensor) -> Tensor:
        phase = torch.atan(sigma)[:, None] * self.frequencies
        features: Tensor = self.layers(torch.cat((phase.cos(), phase.sin()), dim=1))
        return features


class Film(nn.Linear):
    """Time features (B, time_dim) -> scale and shift of channels, h <- h (1 + scale) + shift; both start at zero.

    FiLM (Perez et al., arXiv 1709.07871): an untrained network ignores the time.
    """

    def __init__(self, time_dim: int, channels: int) -> None:
        super().__init__(time_dim, 2 * channels)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def modulate(self, h: Tensor, time: Tensor, channel: int = 1) -> Tensor:
        """h with its channels, dimension ``channel`` of h, scaled and shifted."""
        shape = [len(h), *(1 for _ in h.shape[1:])]
        shape[channel] = h.shape[channel]
        features: Tensor = self(time)
        scale, shift = (part.reshape(shape) for part in features.chunk(2, dim=1))
        return h * (1 + scale) + shift


class FilmBlock(nn.Module):
    """Convolution, group norm, FiLM by the time features (none where ``time_dim`` is None), SiLU."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, time_dim: int | None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1)
        self.norm = nn.GroupNorm(out_channels // math.gcd(8, out_channels), out_channels)
        self.film = None if time_dim is None else Film(time_dim, out_channels)

    def forward(self, x: Tensor, time: Tensor | None) -> Tensor:
        h: Tensor = self.norm(self.conv(x))
        return F.silu(h if self.film is None or time is None else self.film.modulate(h, time))


class GuidanceNetwork(nn.Module):
    """φ: (x, σ) -> latent c_φ (B,F) and logits of p_φ (B,K), from one pass; a small body for small images.

    ``x`` = x0 + σ n (B,C,H,W), model frame, unscaled; ``sigma`` (B,) or (), 0 for a clean image. Inside, x is scaled
    to x / √(1+σ²), the state of a variance-preserving process. With ``time=False`` σ is ignored: no FiLM, x unscaled.

    The activation is smooth because attacks differentiate the guidance again; group norm keeps the images of a batch
    independent. Block k has ``width * (k+1)`` channels and stride ``strides[k]``; the latent is the last
    block's spatial mean, so F = width * len(strides).

    Any module with this ``forward`` can replace it; ``AdaptedNetwork`` wraps any classifier.
    """

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 10,
        width: int = 32,
        strides: tuple[int, ...] = (1, 2, 2),
        time: bool = True,
    ) -> None:
        super().__init__()
        check_size("in_channels", in_channels)
        check_size("num_classes", num_classes, 2)
        check_size("width", width)
        check_sequence("strides", strides, check_size)
        check_flag("time", time)
        self.config: dict[str, Any] = {
            "in_channels": in_channels,
            "num_classes": num_classes,
            "width": width,
            "strides": list(strides),
            **({} if time else {"time": False}),
        }
        channels = [in_channels, *(width * (k + 1) for k in range(len(strides)))]
        self.time = TimeEmbedding(2 * width) if time else None
        self.blocks = nn.ModuleList(
            FilmBlock(c_in, c_out, stride, 2 * width if time else None)
            for c_in, c_out, stride in zip(channels[:-1], channels[1:], strides, strict=True)
        )
        self.head = nn.Linear(channels[-1], num_classes)

    def forward(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        time = None
        if self.time is not None:
            x, sigma = variance_preserving(x, sigma)
            time = self.time(sigma)
        for block in self.blocks:
            x = block(x, time)
        latent = x.mean(dim=(2, 3))
        return latent, self.head(latent)


def variance_preserving(x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """x / √(1+σ²) of x = x0 + σ n, and σ for every image, (B,)."""
    sigma = sigma.to(x).expand(len(x))
    return x / (1 + sigma**2).sqrt()[:, None, None, None], sigma


class AdaptedNetwork(nn.Module):
    """φ from any image classifier: the latent is the input of its last linear layer, (B,F).

    ``network`` reads pixels (B,C,H,W), normalised inside if at all, and gives logits (B,K): a ``WideResNet``, any model
    of timm (``TimmNetwork``), a ``Classifier``, a published one.

    With ``time=False`` σ is ignored and x converted to pixels unscaled: a φ from an off-the-shelf adversarially trained
    classifier. With ``time=True`` its normalisation layers are followed by FiLM and it reads x / √(1+σ²), like
    ``GuidanceNetwork``; before training it computes ``network`` of that.

    Parameters
    ----------
    time:
        Condition on σ.
    film:
        Regular expression in the names of the normalisation layers to modulate; None: all. Examples: ``bn2`` for a
        wide ResNet (before the second convolution of each block), ``bn1`` for timm's ResNet-18. Where such a layer of
        timm includes an activation, FiLM follows the activation.
    head:
        Name of the linear layer whose input is the latent; None: the last one in the network.
    time_dim:
        Number of time features.

    Raises ``ValueError`` where there is no such layer. ``config`` holds the arguments.
    """

    def __init__(
        self,
        network: nn.Module,
        time: bool = False,
        film: str | None = None,
        head: str | None = None,
        time_dim: int = 128,
    ) -> None:
        super().__init__()
        check_part("network", network, nn.Module, "a module")
        check_flag("time", time)
        check_optional(check_text, "film", film)
        check_optional(check_text, "head", head)
        check_size("time_dim", time_dim)
        linear = [name for name, part in network.named_modules() if isinstance(part, nn.Linear)]
        if not linear or (head is not None and head not in linear):
            raise ValueError(f"head must name a linear layer, one of {linear[-3:]}; got {head!r}")
        self.network, self.head = network, head or linear[-1]
        self.config = {"network": network, "time": time, "film": film, "head": head, "time_dim": time_dim}
        self.time = TimeEmbedding(time_dim) if time else None
        norms = {name: part for name, part in network.named_modules() if _channels(part)} if time else {}
        try:
            self.norms = [name for name in norms if film is None or re.search(film, name)]
        except re.error as error:
            raise ValueError(f"film must be a regular expression; got {film!r}: {error}") from error
        if time and not self.norms:
            raise ValueError(f"film must match the name of a normalisation layer; got {film!r} for {list(norms)}")
        self.films = nn.ModuleList(Film(time_dim, _channels(norms[name])) for name in self.norms)

    def forward(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        with ExitStack() as stack:
            if self.time is not None:
                x, sigma = variance_preserving(x, sigma)
                stack.enter_context(self._conditioned(self.time(sigma)))
            latents: list[Tensor] = []
            hook = self.network.get_submodule(self.head).register_forward_pre_hook(
                lambda _, arguments: latents.append(arguments[0])
            )
            stack.callback(hook.remove)
            logits = self.network(to_pixel(x))
        return latents[-1].flatten(1), logits

    @contextmanager
    def _conditioned(self, time: Tensor) -> Iterator[None]:
        """Modulate the outputs of the chosen normalisation layers while the context lasts."""
        with ExitStack() as stack:
            for name, film in zip(self.norms, self.films, strict=True):
                norm = self.network.get_submodule(name)
                stack.callback(norm.register_forward_hook(partial(_modulated, cast(Film, film), time)).remove)
            yield


def _modulated(film: Film, time: Tensor, norm: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Forward hook of a normalisation layer: FiLM of its output, whose channels are last only after a LayerNorm."""
    channels_last = isinstance(norm, nn.LayerNorm) and not type(norm).__name__.endswith("2d")  # timm's LayerNorm2d
    return film.modulate(output, time, output.ndim - 1 if channels_last else 1)


def _channels(part: nn.Module) -> int:
    """Number of channels of a normalisation layer; 0 for any other module."""
    if isinstance(part, nn.BatchNorm2d):
        return part.num_features
    if isinstance(part, nn.GroupNorm):
        return part.num_channels
    return part.normalized_shape[-1] if isinstance(part, nn.LayerNorm) else 0
