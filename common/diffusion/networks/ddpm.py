"""The U-Net of Ho et al. (arXiv 2006.11239) under SDEdit's published tensor names, e.g. for CelebA-HQ 256."""

from collections.abc import Sequence
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.diffusion.networks import layers
from common.diffusion.networks.doubling import halved

_norm = partial(layers.group_norm_32, eps=1e-6)


class ResBlock(nn.Module):
    """Residual block to which the noise level is added: (B,in,H,W), emb (B,E) activated -> (B,out,H,W)."""

    def __init__(self, in_channels: int, out_channels: int, emb_channels: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = _norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.temb_proj = nn.Linear(emb_channels, out_channels)
        self.norm2 = _norm(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None
        self.dropout = dropout

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        layer = (self.norm1, self.conv1, self.temb_proj, self.norm2, self.conv2)
        branch = layers.residual_branch(x, emb, layer, dropout=self.dropout if self.training else 0.0)
        return branch + (x if self.nin_shortcut is None else self.nin_shortcut(x))


class Attention(nn.Module):
    """Self-attention over positions with one head."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (project(h).flatten(2) for project in (self.q, self.k, self.v))
        out: Tensor = x + self.proj_out(layers.attend(q, k, v).reshape(x.shape))
        return out


class Downsample(nn.Module):
    """Down-sampling by two: a convolution of stride 2 or the 2x2 mean."""

    def __init__(self, channels: int, conv: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2) if conv else None

    def forward(self, x: Tensor) -> Tensor:
        return halved(x) if self.conv is None else layers.strided_conv(x, self.conv)


class Level(nn.Module):
    """One resolution: residual blocks, each followed by attention if ``attends``, and the resampling to the next."""

    downsample: nn.Module | None
    upsample: nn.Module | None

    def __init__(self, inputs: list[int], width: int, emb_channels: int, attends: bool, dropout: float) -> None:
        super().__init__()
        self.block = nn.ModuleList(ResBlock(channels, width, emb_channels, dropout) for channels in inputs)
        self.attn = nn.ModuleList(Attention(width) for _ in inputs if attends)
        self.downsample = self.upsample = None

    def at(self, index: int, x: Tensor, emb: Tensor) -> Tensor:
        """Block ``index`` and its attention."""
        h: Tensor = self.block[index](x, emb)
        return self.attn[index](h) if len(self.attn) else h


class Middle(nn.Module):
    """Residual block, attention, residual block."""

    def __init__(self, width: int, emb_channels: int, dropout: float) -> None:
        super().__init__()
        self.block_1 = ResBlock(width, width, emb_channels, dropout)
        self.attn_1 = Attention(width)
        self.block_2 = ResBlock(width, width, emb_channels, dropout)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h: Tensor = self.block_2(self.attn_1(self.block_1(x, emb)), emb)
        return h


class IndexEmbedding(nn.Module):
    """Embedding of the noise level's index: (B,) -> activated (B, 4 channels)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dense = nn.ModuleList([nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, 4 * channels)])
        self.channels = channels

    def forward(self, i: Tensor, dtype: torch.dtype) -> Tensor:
        emb = layers.sinusoidal(i.reshape(-1).float(), self.channels).to(dtype)
        for layer in self.dense:
            emb = F.silu(layer(emb))
        return emb


class DDPMUNet(nn.Module):
    """The network of Ho et al., as published with SDEdit (Meng et al., arXiv 2108.01073).

    ``network(x, t)``: ``x`` (B,C,H,W) model frame at unit variance, ``t`` (B,) or () the index of the noise level,
    0..999. Returns the noise (B, ``out_ch``, H, W). ``config`` holds the constructor's arguments.

    Args:
        image_size: side of the images; a multiple of ``2**(levels - 1)``.
        in_channels, out_ch: channels of the images, of the output.
        ch: base width, a multiple of 32. ch_mult: width of each level in units of it, finest first.
        num_res_blocks: residual blocks per level, one more on the way up.
        attn_resolutions: sides at which every block is followed by attention.
        dropout: rate in the residual blocks, in training only.
        resamp_with_conv: resampling has a 3x3 convolution.

    Raises ``ValueError`` for sizes that do not fit.
    """

    def __init__(
        self,
        image_size: int,
        in_channels: int = 3,
        out_ch: int = 3,
        ch: int = 128,
        ch_mult: Sequence[int] = (1, 1, 2, 2, 4, 4),
        num_res_blocks: int = 2,
        attn_resolutions: Sequence[int] = (16,),
        dropout: float = 0.0,
        resamp_with_conv: bool = True,
    ) -> None:
        arguments = layers.constructor_arguments(locals())
        super().__init__()
        self.config = arguments
        layers.check_body(
            arguments,
            counts="image_size in_channels out_ch ch num_res_blocks",
            rates="dropout",
            flags="resamp_with_conv",
            lists="attn_resolutions",
            multipliers="ch_mult",
        )
        self.num_res_blocks = num_res_blocks
        attends = [side in set(attn_resolutions) for side in layers.levels_of(image_size, ch_mult)]
        widths = [ch * mult for mult in ch_mult]
        level_of = partial(Level, emb_channels=4 * ch, dropout=dropout)

        self.temb = IndexEmbedding(ch)
        self.conv_in = nn.Conv2d(in_channels, ch, 3, padding=1)
        self.down, stored = nn.ModuleList(), [ch]
        for index, width in enumerate(widths):
            inputs = [width if block else stored[-1] for block in range(num_res_blocks)]
            level = level_of(inputs, width, attends=attends[index])
            stored += [width] * num_res_blocks
            if index < len(widths) - 1:
                level.downsample = Downsample(width, resamp_with_conv)
                stored.append(width)
            self.down.append(level)
        self.mid = Middle(widths[-1], 4 * ch, dropout)
        deeper, ups = widths[-1], []
        for index in range(len(widths) - 1, -1, -1):
            width = widths[index]
            inputs = [(width if block else deeper) + stored.pop() for block in range(num_res_blocks + 1)]
            level = level_of(inputs, width, attends=attends[index])
            if index:
                level.upsample = layers.ConvUpsample(width, resamp_with_conv)
            ups.append(level)
            deeper = width
        self.up = nn.ModuleList(reversed(ups))  # numbered from the finest level
        self.norm_out = _norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], out_ch, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        emb = self.temb(t, x.dtype)
        stored: list[Tensor] = [self.conv_in(x)]
        for level in cast(Sequence[Level], self.down):
            for index in range(self.num_res_blocks):
                stored.append(level.at(index, stored[-1], emb))
            if level.downsample is not None:
                stored.append(level.downsample(stored[-1]))
        h = self.mid(stored[-1], emb)
        for level in cast(Sequence[Level], self.up[::-1]):
            for index in range(self.num_res_blocks + 1):
                h = level.at(index, torch.cat([h, stored.pop()], dim=1), emb)
            if level.upsample is not None:
                h = level.upsample(h)
        out: Tensor = self.conv_out(F.silu(self.norm_out(h)))
        return out
