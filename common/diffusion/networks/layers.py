"""Functions and layers that all U-Net bodies share; the bodies hold the parameters under the published names.

Everything is plain PyTorch and differentiable twice, on CUDA inside `twice_differentiable`: a guided reverse step takes
a gradient inside its forward pass, and an attack differentiates that.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.checks.settings import check_flag, check_number, check_positive, check_sequence, check_size
from common.diffusion.networks.doubling import doubled, halved
from common.engine.switch import REPEATABLE, Switch

Layer = Callable[[Tensor], Tensor]


def constructor_arguments(scope: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a constructor as plain values, from ``locals()`` at its top: the config of a checkpoint."""
    plain = {name: value for name, value in scope.items() if name not in ("self", "__class__")}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}


def check_body(scope: Mapping[str, Any], **kinds: str) -> None:
    """Check a body's arguments, ``locals()`` at the top of its constructor, by the names of each kind.

    ``counts`` are integers of at least 1, ``sizes`` of at least 0, ``rates`` shares in [0, 1), ``flags`` booleans;
    ``lists`` hold integers of at least 1, ``multipliers`` one entry or more, ``factors`` numbers above 0 as well.
    Raises ``ValueError`` with the name.
    """
    checks: dict[str, Callable[[str, Any], Any]] = {
        "counts": check_size,
        "sizes": partial(check_size, at_least=0),
        "rates": partial(check_number, at_least=0, below=1),
        "flags": check_flag,
        "lists": partial(check_sequence, check=check_size, at_least=0),
        "factors": partial(check_sequence, check=check_positive),
        "multipliers": partial(check_sequence, check=check_size),
    }
    for kind, names in kinds.items():
        for name in names.split():
            checks[kind](name, scope[name])


def levels_of(resolution: int, channel_mult: Sequence[int | float]) -> list[int]:
    """Resolutions of a U-Net's levels, finest first: the side halves from one level to the next.

    Raises ``ValueError`` if there is no level or a side cannot be halved.
    """
    depth = len(channel_mult)
    if depth == 0 or resolution < 1 or resolution % 2 ** (depth - 1):
        raise ValueError(
            f"a U-Net with {depth} levels halves the image {depth - 1} times, so the resolution must be a positive "
            f"multiple of {2 ** max(depth - 1, 0)}; got {resolution}. Change it or the number of channel multipliers."
        )
    return [resolution >> level for level in range(depth)]


def group_norm(channels: int, eps: float) -> nn.GroupNorm:
    """Group normalisation with at most 32 groups of at least four channels each (Score-SDE, EDM)."""
    return nn.GroupNorm(max(1, min(32, channels // 4)), channels, eps=eps)


def group_norm_32(channels: int, eps: float) -> nn.GroupNorm:
    """Group normalisation with 32 groups (Ho et al., guided diffusion).

    Raises ``ValueError`` if they do not divide the width.
    """
    if channels % 32:
        raise ValueError(
            f"this network normalises in 32 groups, so its widths must be multiples of 32; got {channels}."
        )
    return nn.GroupNorm(32, channels, eps=eps)


# Embeddings of a noise level ------------------------------------------------------------------------------------------


def sinusoidal(t: Tensor, channels: int) -> Tensor:
    """``[sin(t w_k), cos(t w_k)]`` with ``w_k = 10000^(-k/(n-1))``, ``n = channels/2``: (B,) -> (B, channels).

    The embedding of DDPM (Ho et al., arXiv 2006.11239) and of Score-SDE.
    """
    n = channels // 2
    k = torch.arange(n, dtype=t.dtype, device=t.device)
    phase = t[:, None] * torch.exp(k * (-math.log(10000.0) / max(n - 1, 1)))
    return torch.cat([phase.sin(), phase.cos()], dim=1)


def cosinusoidal(t: Tensor, channels: int) -> Tensor:
    """``[cos(t w_k), sin(t w_k)]`` with ``w_k = 10000^(-k/n)``, ``n = channels/2``: (B,) -> (B, channels).

    The embedding of improved and guided diffusion (Dhariwal & Nichol, arXiv 2105.05233).
    """
    n = channels // 2
    k = torch.arange(n, dtype=t.dtype, device=t.device)
    phase = t[:, None] * torch.exp(k * (-math.log(10000.0) / n))
    return torch.cat([phase.cos(), phase.sin()], dim=1)


def fourier(t: Tensor, frequencies: Tensor) -> Tensor:
    """``[sin(2 pi t f), cos(2 pi t f)]`` with fixed random frequencies ``f`` (n,): (B,) -> (B, 2n).

    The embedding of NCSN++ (Song et al., arXiv 2011.13456).
    """
    phase = t[:, None] * (2 * math.pi * frequencies)
    return torch.cat([phase.sin(), phase.cos()], dim=1)


# Resampling by two ----------------------------------------------------------------------------------------------------


def resampling_kernel(taps: Sequence[float]) -> Tensor:
    """Separable low-pass kernel (1,1,n,n) with unit sum from its symmetric taps, e.g. (1,1) or (1,3,3,1); n even.

    Raises ``ValueError`` for an odd number of taps, asymmetric taps, or a sum that is not positive.
    """
    f = torch.tensor(list(taps), dtype=torch.float32, device="cpu")  # never on the meta device
    if f.ndim != 1 or f.numel() == 0 or f.numel() % 2 or not torch.equal(f, f.flip(0)) or float(f.sum()) <= 0:
        raise ValueError(f"resampling taps must be symmetric, even in number, with a positive sum; got {list(taps)}.")
    return (f.outer(f) / f.sum().square())[None, None]


def _depthwise(kernel: Tensor, channels: int, dtype: torch.dtype) -> Tensor:
    return kernel.to(dtype).expand(channels, 1, -1, -1)


def downsample(x: Tensor, kernel: Tensor) -> Tensor:
    """Low-pass with ``kernel``, then every second sample: (B,C,2H,2W) -> (B,C,H,W); zeros outside the image.

    ``kernel`` comes from `resampling_kernel`, here and below.
    """
    if kernel.shape[-1] == 2:  # two symmetric taps of unit sum are the 2x2 mean
        return halved(x)
    c = x.shape[1]
    return F.conv2d(x, _depthwise(kernel, c, x.dtype), stride=2, padding=kernel.shape[-1] // 2 - 1, groups=c)


def upsample(x: Tensor, kernel: Tensor) -> Tensor:
    """Zero insertion and low-pass with 4 ``kernel``: (B,C,H,W) -> (B,C,2H,2W); zeros outside the image."""
    if kernel.shape[-1] == 2:
        return doubled(x)
    c = x.shape[1]
    taps = 4 * _depthwise(kernel, c, x.dtype)
    return F.conv_transpose2d(x, taps, stride=2, padding=kernel.shape[-1] // 2 - 1, groups=c)


def downsample_conv(x: Tensor, weight: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    """Low-pass, convolution and decimation as *one* filter, without cropping or zero padding in between.

    Only the border differs from `downsample` followed by a convolution (NCSN++'s down-sampling, arXiv 2011.13456).
    """
    reach = weight.shape[-1] // 2 + kernel.shape[-1] // 2 - 1
    c = weight.shape[0]
    return F.conv2d(F.conv2d(x, weight, padding=reach), _depthwise(kernel, c, x.dtype), bias, stride=2, groups=c)


def upsample_conv(x: Tensor, weight: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    """Zero insertion, low-pass and convolution as *one* filter: the counterpart of `downsample_conv`."""
    surplus = kernel.shape[-1] // 2 - 1 - weight.shape[-1] // 2
    c = x.shape[1]
    wide = F.conv_transpose2d(x, 4 * _depthwise(kernel, c, x.dtype), stride=2, padding=max(surplus, 0), groups=c)
    return F.conv2d(wide, weight, bias, padding=max(-surplus, 0))


def strided_conv(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """3x3 convolution of stride 2 on an image padded below and to the right only (Ho et al.)."""
    h: Tensor = conv(F.pad(x, (0, 1, 0, 1)))
    return h


class ConvUpsample(nn.Module):
    """Nearest-neighbour up-sampling by two, then a 3x3 convolution if ``conv``: (B,C,H,W) -> (B,C,2H,2W)."""

    def __init__(self, channels: int, conv: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1) if conv else None

    def forward(self, x: Tensor) -> Tensor:
        x = doubled(x)
        return x if self.conv is None else self.conv(x)


# Blocks ---------------------------------------------------------------------------------------------------------------


_TWICE = Switch()


def twice_differentiable() -> AbstractContextManager[None]:
    """Context manager: attention of networks that are differentiated twice, on CUDA without the fused kernels."""
    return _TWICE.turned_on()


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """``softmax(q^T k / sqrt(c)) v`` over positions: three (N,c,L) -> (N,c,L), N = batch x heads.

    By PyTorch's fused kernels on CUDA, which have no second derivatives and whose backward passes add up in any order.
    Written out inside `twice_differentiable`, in attacks, whose records would not be repeatable (`REPEATABLE`; the
    affinities take 4 N L^2 bytes), and on CPUs, where the fused kernel takes 1.2 to 3.7 times as long (one thread,
    c = 64 to 256, L = 64 to 1,024).
    """
    if _is_fused(q):
        q, k, v = (each.transpose(1, 2).unsqueeze(1) for each in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v).squeeze(1).transpose(1, 2)
    affinity = torch.bmm((q * q.shape[1] ** -0.5).transpose(1, 2), k).softmax(dim=-1)
    return torch.bmm(v, affinity.transpose(1, 2))


def _is_fused(q: Tensor) -> bool:
    return q.device.type == "cuda" and not (_TWICE.is_on or REPEATABLE.is_on)


def residual_branch(
    x: Tensor,
    emb: Tensor | None,
    layers: tuple[Layer, Layer, Layer, Layer, Layer],
    *,
    resample: Layer | None = None,
    activation: Layer = F.silu,
    dropout: float = 0.0,
    adaptive: bool = False,
) -> Tensor:
    """Branch of a residual block: norm, activation, (resampling,) conv, noise level, norm, activation, conv.

    ``layers`` = (norm0, conv0, affine, norm1, conv1). The noise level's embedding ``emb`` (B,E), already activated, is
    added before the second norm, or, if ``adaptive``, scales and shifts its result: ``(1 + a) norm1(h) + b``.
    ``dropout`` is the current rate (0 outside training).
    """
    norm0, conv0, affine, norm1, conv1 = layers
    h = activation(norm0(x))
    h = conv0(h if resample is None else resample(h))
    if emb is not None:
        level = affine(emb)[:, :, None, None]
        if adaptive:
            scale, shift = level.chunk(2, dim=1)
            h = torch.addcmul(shift, norm1(h), scale + 1)
        else:
            h = norm1(h + level)
    else:
        h = norm1(h)
    h = activation(h)
    return conv1(F.dropout(h, dropout) if dropout else h)
