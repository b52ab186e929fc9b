"""DDPM++ and NCSN++ under Score-SDE's published tensor names (Song et al., arXiv 2011.13456): DiffPure's CIFAR-10 body.

The publishers number all layers in the order of the forward pass (``all_modules.i``). The forward pass here therefore
takes one layer after the other, in loops that mirror those of the constructor.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.checks.settings import (
    check_not_negative,
    check_number,
    check_one_of,
    check_positive,
    check_sequence,
    check_size,
)
from common.diffusion.networks import layers
from common.diffusion.networks.layers import Layer
from common.units import to_model

EPS = 1e-6  # of every group norm

ACTIVATIONS: dict[str, Layer] = {
    "swish": F.silu,
    "relu": F.relu,
    "elu": F.elu,
    "lrelu": partial(F.leaky_relu, negative_slope=0.2),
}

Resampling = Literal["up", "down"]
Layers = Callable[[], nn.Module]  # returns the next layer at each call


class FourierFeatures(nn.Module):
    """Fixed random Fourier features with frequencies ``W ~ N(0, scale^2)``: (B,) -> (B, 2 channels)."""

    def __init__(self, channels: int, scale: float) -> None:
        super().__init__()
        self.W = nn.Parameter(scale * torch.randn(channels), requires_grad=False)

    def forward(self, value: Tensor) -> Tensor:
        return layers.fourier(value, self.W)


class NIN(nn.Module):
    """Network in network: linear map of the channels, (B,in,H,W) -> (B,out,H,W)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.empty(in_channels, out_channels))
        self.b = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.W.t()[:, :, None, None], self.b)


class Attention(nn.Module):
    """Self-attention over positions with one head; the sum with the shortcut is multiplied by ``scale``."""

    def __init__(self, channels: int, scale: float) -> None:
        super().__init__()
        self.GroupNorm_0 = layers.group_norm(channels, EPS)
        self.NIN_0, self.NIN_1, self.NIN_2, self.NIN_3 = (NIN(channels, channels) for _ in range(4))
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        h = self.GroupNorm_0(x)
        q, k, v = (project(h).flatten(2) for project in (self.NIN_0, self.NIN_1, self.NIN_2))
        out: Tensor = (x + self.NIN_3(layers.attend(q, k, v).reshape(x.shape))) * self.scale
        return out


class Resample(nn.Module):
    """Resampling by two through a low-pass filter, with a 3x3 convolution if ``conv``.

    ``taps`` None is nearest-neighbour up and, without a convolution, the 2x2 mean down.
    """

    kernel: Tensor

    def __init__(
        self,
        direction: Resampling,
        in_channels: int,
        out_channels: int,
        conv: bool,
        taps: Sequence[float] | None,
    ) -> None:
        super().__init__()
        self.up = direction == "up"
        self.register_buffer("kernel", layers.resampling_kernel(taps or (1, 1)), persistent=False)
        self.Conv_0: nn.Conv2d | None = None
        self.Conv2d_0: nn.Conv2d | None = None
        if conv and taps is None:
            self.Conv_0 = nn.Conv2d(in_channels, out_channels, 3, stride=1 if self.up else 2, padding=int(self.up))
        elif conv:
            self.Conv2d_0 = nn.Conv2d(in_channels, out_channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.Conv2d_0 is not None:
            resample_conv = layers.upsample_conv if self.up else layers.downsample_conv
            return resample_conv(x, self.Conv2d_0.weight, self.kernel, self.Conv2d_0.bias)
        if self.Conv_0 is not None and not self.up:
            return layers.strided_conv(x, self.Conv_0)
        x = layers.upsample(x, self.kernel) if self.up else layers.downsample(x, self.kernel)
        return x if self.Conv_0 is None else self.Conv_0(x)


class Combine(nn.Module):
    """Input pyramid combined with the features: a 1x1 convolution, then sum or concatenation."""

    def __init__(self, in_channels: int, out_channels: int, method: str) -> None:
        super().__init__()
        self.Conv_0 = nn.Conv2d(in_channels, out_channels, 1)
        self.method = method

    def forward(self, pyramid: Tensor, h: Tensor) -> Tensor:
        pyramid = self.Conv_0(pyramid)
        return torch.cat([pyramid, h], dim=1) if self.method == "cat" else pyramid + h


class ResBlock(nn.Module):
    """Residual block: "biggan" resamples inside and has a 1x1 convolution as shortcut, "ddpm" has a NIN."""

    kernel: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        emb_channels: int,
        kind: str,
        activation: Layer,
        dropout: float,
        scale: float,
        taps: Sequence[float] | None,
        resampling: Resampling | None = None,
    ) -> None:
        super().__init__()
        self.activation, self.dropout, self.scale, self.resampling = activation, dropout, scale, resampling
        if resampling is not None:
            self.register_buffer("kernel", layers.resampling_kernel(taps or (1, 1)), persistent=False)
        self.GroupNorm_0 = layers.group_norm(in_channels, EPS)
        self.Conv_0 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.Dense_0 = nn.Linear(emb_channels, out_channels)
        self.GroupNorm_1 = layers.group_norm(out_channels, EPS)
        self.Conv_1 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.Conv_2 = self.NIN_0 = None
        if kind == "biggan" and (in_channels != out_channels or resampling is not None):
            self.Conv_2 = nn.Conv2d(in_channels, out_channels, 1)
        elif in_channels != out_channels:
            self.NIN_0 = NIN(in_channels, out_channels)

    def _resample(self, x: Tensor) -> Tensor:
        return layers.upsample(x, self.kernel) if self.resampling == "up" else layers.downsample(x, self.kernel)

    def forward(self, x: Tensor, emb: Tensor | None) -> Tensor:
        branch = layers.residual_branch(
            x,
            emb,
            (self.GroupNorm_0, self.Conv_0, self.Dense_0, self.GroupNorm_1, self.Conv_1),
            resample=None if self.resampling is None else self._resample,
            activation=self.activation,
            dropout=self.dropout if self.training else 0.0,
        )
        shortcut = x if self.resampling is None else self._resample(x)
        project = self.Conv_2 or self.NIN_0
        return ((shortcut if project is None else project(shortcut)) + branch) * self.scale


CHOICES = {
    "resblock_type": ("biggan", "ddpm"),
    "progressive": ("none", "output_skip", "residual"),
    "progressive_input": ("none", "input_skip", "residual"),
    "progressive_combine": ("sum", "cat"),
    "embedding_type": ("positional", "fourier"),
    "nonlinearity": tuple(ACTIVATIONS),
}


def _check_arguments(arguments: dict[str, Any]) -> None:
    """Raise ``ValueError`` for arguments of an `NCSNpp` out of range, and for unknown names."""
    layers.check_body(
        arguments,
        counts="image_size num_channels nf num_res_blocks",
        rates="dropout",
        flags="resamp_with_conv conditional fir skip_rescale scale_by_sigma centered",
        lists="attn_resolutions",
        multipliers="ch_mult",
    )
    check_sequence("fir_kernel", arguments["fir_kernel"], check_number)
    check_not_negative("init_scale", arguments["init_scale"])
    check_positive("fourier_scale", arguments["fourier_scale"])
    check_number("sigma_max", arguments["sigma_max"], above=check_positive("sigma_min", arguments["sigma_min"]))
    check_size("num_scales", arguments["num_scales"], 2)
    for name, choices in CHOICES.items():
        check_one_of(name, arguments[name], choices)


class NCSNpp(nn.Module):
    """The U-Net of DDPM++ and NCSN++ with the options of its publishers.

    ``network(x, time_cond)``: ``x`` (B,C,H,W); ``time_cond`` (B,) is ``999 t`` for VP networks, which predict noise,
    and ``sigma`` for Fourier-embedded VE ones, which predict the score. Returns (B,C,H,W). ``config`` holds the
    constructor's arguments.

    Args:
        image_size, num_channels: of the images; the size only decides at which levels ``attn_resolutions`` apply.
        nf: base width; ch_mult: width of each level in units of it, finest first.
        num_res_blocks: residual blocks per level, one more on the way up.
        attn_resolutions: sides at which attention follows every block (on the way up: every level).
        dropout: rate in the residual blocks, in training only.
        resamp_with_conv: resampling of "ddpm" networks has a 3x3 convolution.
        conditional: False for a network without the noise level as input.
        fir, fir_kernel: low-pass with these taps when resampling; else nearest neighbour and 2x2 mean.
        skip_rescale: every sum of shortcut and branch is divided by sqrt(2).
        resblock_type: "biggan" or "ddpm".
        progressive: "none", "output_skip" (the output is a sum over levels) or "residual" (through learned layers).
        progressive_input: "none", "input_skip" (each level sees the low-passed image) or "residual".
        progressive_combine: "sum" or "cat" (concatenation), for "input_skip".
        init_scale: gain of each branch's last layer at initialisation.
        embedding_type: "positional" or "fourier", the latter of ``ln(time_cond)`` with ``fourier_scale``.
        nonlinearity: "swish", "relu", "elu" or "lrelu".
        scale_by_sigma: divide the output by sigma: ``time_cond`` itself, or the entry of ``sigmas`` with that index.
        centered: False for a network of images in [0,1], which it maps to [-1,1] itself.
        sigma_min, sigma_max, num_scales: the geometric sequence ``sigmas``, descending.

    Raises ``ValueError`` for sizes that do not fit and for unknown types.
    """

    sigmas: Tensor

    def __init__(
        self,
        image_size: int = 32,
        num_channels: int = 3,
        nf: int = 128,
        ch_mult: Sequence[int] = (1, 2, 2, 2),
        num_res_blocks: int = 8,
        attn_resolutions: Sequence[int] = (16,),
        dropout: float = 0.1,
        resamp_with_conv: bool = True,
        conditional: bool = True,
        fir: bool = False,
        fir_kernel: Sequence[float] = (1, 3, 3, 1),
        skip_rescale: bool = True,
        resblock_type: Literal["biggan", "ddpm"] = "biggan",
        progressive: Literal["none", "output_skip", "residual"] = "none",
        progressive_input: Literal["none", "input_skip", "residual"] = "none",
        progressive_combine: Literal["sum", "cat"] = "sum",
        init_scale: float = 0.0,
        embedding_type: Literal["positional", "fourier"] = "positional",
        fourier_scale: float = 16,
        nonlinearity: Literal["swish", "relu", "elu", "lrelu"] = "swish",
        scale_by_sigma: bool = False,
        centered: bool = True,
        sigma_min: float = 0.01,
        sigma_max: float = 50.0,
        num_scales: int = 1000,
    ) -> None:
        arguments = layers.constructor_arguments(locals())
        super().__init__()
        self.config = arguments
        _check_arguments(arguments)
        self.nf, self.num_res_blocks, self.conditional = nf, num_res_blocks, conditional
        self.biggan, self.embedding_type = resblock_type == "biggan", embedding_type
        self.progressive, self.progressive_input = progressive, progressive_input
        self.scale_by_sigma, self.centered = scale_by_sigma, centered
        self.activation = ACTIVATIONS[nonlinearity]
        self.scale = math.sqrt(0.5) if skip_rescale else 1.0
        self.attends = [side in set(attn_resolutions) for side in layers.levels_of(image_size, ch_mult)]
        taps = tuple(fir_kernel) if fir else None
        sigmas = torch.linspace(math.log(sigma_max), math.log(sigma_min), num_scales, dtype=torch.float64, device="cpu")
        self.register_buffer("sigmas", sigmas.exp().float())

        self.all_modules = nn.ModuleList(self._embedding(fourier_scale))
        block = partial(
            ResBlock,
            emb_channels=4 * nf,
            kind=resblock_type,
            activation=self.activation,
            dropout=dropout,
            scale=self.scale,
            taps=taps,
        )
        resample = partial(Resample, conv=resamp_with_conv, taps=taps)
        widths = [nf * mult for mult in ch_mult]
        stored = self._build_way_down(num_channels, widths, progressive_combine, block, resample)
        self._build_way_up(num_channels, widths, stored, block, resample)
        # Pyramids of images are resampled without parameters.
        self.pyramid_downsample = Resample("down", num_channels, num_channels, conv=False, taps=taps)
        self.pyramid_upsample = Resample("up", num_channels, num_channels, conv=False, taps=taps)
        self._initialise(init_scale)

    def _embedding(self, fourier_scale: float) -> list[nn.Module]:
        fourier = self.embedding_type == "fourier"
        features: list[nn.Module] = [FourierFeatures(self.nf, fourier_scale)] if fourier else []
        if not self.conditional:
            return features
        return [*features, nn.Linear((1 + fourier) * self.nf, 4 * self.nf), nn.Linear(4 * self.nf, 4 * self.nf)]

    def _build_way_down(
        self,
        num_channels: int,
        widths: list[int],
        combine: str,
        block: Callable[..., ResBlock],
        resample: Callable[..., Resample],
    ) -> list[int]:
        """Append the layers of the way down; returns the widths of the activations stored for the way up."""
        add = self.all_modules.append
        add(nn.Conv2d(num_channels, self.nf, 3, padding=1))
        width, pyramid, stored = self.nf, num_channels, [self.nf]
        for level, out in enumerate(widths):
            for _ in range(self.num_res_blocks):
                add(block(width, out))
                if self.attends[level]:
                    add(Attention(out, self.scale))
                width = out
                stored.append(width)
            if level == len(widths) - 1:
                break
            add(block(width, width, resampling="down") if self.biggan else resample("down", width, width))
            if self.progressive_input == "input_skip":
                add(Combine(pyramid, width, combine))
                width *= 2 if combine == "cat" else 1
            elif self.progressive_input == "residual":
                add(resample("down", pyramid, width, conv=True))
                pyramid = width
            stored.append(width)
        for layer in (block(width, width), Attention(width, self.scale), block(width, width)):
            add(layer)
        return stored

    def _build_way_up(
        self,
        num_channels: int,
        widths: list[int],
        stored: list[int],
        block: Callable[..., ResBlock],
        resample: Callable[..., Resample],
    ) -> None:
        add = self.all_modules.append
        width, pyramid, deepest = stored[-1], 0, len(widths) - 1
        for level in range(deepest, -1, -1):
            for _ in range(self.num_res_blocks + 1):
                add(block(width + stored.pop(), widths[level]))
                width = widths[level]
            if self.attends[level]:
                add(Attention(width, self.scale))
            if self.progressive == "residual" and level < deepest:
                add(resample("up", pyramid, width, conv=True))
                pyramid = width
            elif self.progressive != "none":
                pyramid = width if self.progressive == "residual" else num_channels
                add(layers.group_norm(width, EPS))
                add(nn.Conv2d(width, pyramid, 3, padding=1))
            if level:
                add(block(width, width, resampling="up") if self.biggan else resample("up", width, width))
        if self.progressive != "output_skip":
            add(layers.group_norm(width, EPS))
            add(nn.Conv2d(width, num_channels, 3, padding=1))

    def _initialise(self, init_scale: float) -> None:
        """Weights of variance ``scale / mean fan``, scale ``init_scale`` in last layers, else 0.1 in a NIN or 1."""
        for module in self.all_modules.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
            elif isinstance(module, NIN):
                nn.init.xavier_uniform_(module.W, gain=math.sqrt(0.1))
        last: list[Any] = []
        for module in self.all_modules.modules():
            last += [module.Conv_1.weight] if isinstance(module, ResBlock) else []
            last += [module.NIN_3.W] if isinstance(module, Attention) else []
        if self.progressive == "output_skip":
            last += [layer.weight for layer in self.all_modules if isinstance(layer, nn.Conv2d)][1:]
        else:
            last.append(self.all_modules[-1].weight)
        for weight in last:
            nn.init.xavier_uniform_(weight, gain=math.sqrt(init_scale or 1e-10))

    def _embed(self, label: Tensor, dtype: torch.dtype, layer: Layers) -> Tensor | None:
        """Noise level as an activated vector (B, 4 nf); None for an unconditional network."""
        fourier = self.embedding_type == "fourier"
        emb: Tensor = layer()(label.log()) if fourier else layers.sinusoidal(label, self.nf)
        if not self.conditional:
            return None
        emb = emb.to(dtype)
        emb = self.activation(layer()(emb))
        return self.activation(layer()(emb))

    def forward(self, x: Tensor, time_cond: Tensor) -> Tensor:
        label = time_cond.reshape(-1)
        layer = iter(self.all_modules).__next__
        emb = self._embed(label.to(torch.promote_types(x.dtype, torch.float32)), x.dtype, layer)
        h = self._way_up(*self._way_down(x if self.centered else to_model(x), emb, layer), emb, layer)
        if self.scale_by_sigma:
            sigma = label if self.embedding_type == "fourier" else self.sigmas[label.long()]
            h = h / sigma.to(h)[:, None, None, None]
        return h

    def _way_down(self, x: Tensor, emb: Tensor | None, layer: Layers) -> tuple[Tensor, list[Tensor]]:
        """Features at the lowest resolution, and the activations stored for the way up."""
        pyramid, stored = x, [layer()(x)]
        for level, attends in enumerate(self.attends):
            for _ in range(self.num_res_blocks):
                h = layer()(stored[-1], emb)
                stored.append(layer()(h) if attends else h)
            if level == len(self.attends) - 1:
                break
            h = layer()(stored[-1], emb) if self.biggan else layer()(stored[-1])
            if self.progressive_input == "input_skip":
                pyramid = self.pyramid_downsample(pyramid)
                h = layer()(pyramid, h)
            elif self.progressive_input == "residual":
                h = pyramid = (layer()(pyramid) + h) * self.scale
            stored.append(h)
        h = layer()(stored[-1], emb)
        h = layer()(h)
        return layer()(h, emb), stored

    def _way_up(self, h: Tensor, stored: list[Tensor], emb: Tensor | None, layer: Layers) -> Tensor:
        pyramid: Tensor | None = None
        for level in range(len(self.attends) - 1, -1, -1):
            for _ in range(self.num_res_blocks + 1):
                h = layer()(torch.cat([h, stored.pop()], dim=1), emb)
            if self.attends[level]:
                h = layer()(h)
            if self.progressive == "residual" and pyramid is not None:
                h = pyramid = (layer()(pyramid) + h) * self.scale
            elif self.progressive != "none":
                h_norm = self.activation(layer()(h))
                share = layer()(h_norm)
                pyramid = share if pyramid is None else self.pyramid_upsample(pyramid) + share
            if level:
                h = layer()(h, emb) if self.biggan else layer()(h)
        if self.progressive == "output_skip" and pyramid is not None:
            return pyramid
        h = self.activation(layer()(h))
        out: Tensor = layer()(h)
        return out
