"""Building blocks of DDPM++, NCSN++ and ADM under EDM's published tensor names (Karras et al., arXiv 2206.00364)."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from common.diffusion.networks import layers

Resampling = Literal["up", "down"]


class ResampledConv(nn.Conv2d):
    """Convolution that keeps the side, after a resampling by two if ``resampling`` is given.

    ``fused``: low-pass and convolution as one filter (see `layers.downsample_conv`).
    """

    resample_filter: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        resampling: Resampling | None = None,
        taps: tuple[float, ...] = (1, 1),
        fused: bool = False,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
        self.resampling, self.fused = resampling, fused
        if resampling is not None:
            self.register_buffer("resample_filter", layers.resampling_kernel(taps))

    def forward(self, x: Tensor) -> Tensor:
        if self.resampling is None:
            return super().forward(x)
        if self.fused:
            resample_conv = layers.downsample_conv if self.resampling == "down" else layers.upsample_conv
            return resample_conv(x, self.weight, self.resample_filter, self.bias)
        resample = layers.downsample if self.resampling == "down" else layers.upsample
        return super().forward(resample(x, self.resample_filter))


class Resample(nn.Module):
    """Resampling by two without parameters: (B,C,H,W) -> (B,C,2H,2W) or (B,C,H/2,W/2)."""

    resample_filter: Tensor

    def __init__(self, resampling: Resampling, taps: tuple[float, ...]) -> None:
        super().__init__()
        self.resampling = resampling
        self.register_buffer("resample_filter", layers.resampling_kernel(taps))

    def forward(self, x: Tensor) -> Tensor:
        return (layers.downsample if self.resampling == "down" else layers.upsample)(x, self.resample_filter)


@dataclass(frozen=True)
class BlockStyle:
    """Settings in which the residual blocks of DDPM++/NCSN++ and of ADM differ.

    ``emb_channels``: width of the noise level's embedding. ``adaptive``: it scales and shifts instead of being added.
    ``channels_per_head``: None for one attention head. ``project``: every resampled shortcut passes a 1x1 convolution.
    ``skip_scale``: factor on each sum of shortcut and branch. ``taps``: the low-pass filter.
    """

    emb_channels: int
    adaptive: bool
    channels_per_head: int | None
    project: bool
    skip_scale: float
    eps: float
    taps: tuple[float, ...]
    dropout: float


class UNetBlock(nn.Module):
    """Residual block, optionally resampled by two and with self-attention: (B,in,H,W), emb (B,E) -> (B,out,H',W')."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        style: BlockStyle,
        attention: bool = False,
        resampling: Resampling | None = None,
    ) -> None:
        super().__init__()
        self.style, self.out_channels = style, out_channels
        # A block too narrow for one head has no attention in the published networks either.
        self.heads = out_channels // (style.channels_per_head or out_channels) if attention else 0
        if self.heads and out_channels % self.heads:
            raise ValueError(
                f"the width of a block with attention must be a multiple of its {self.heads} heads; got "
                f"{out_channels}. Change model_channels or channel_mult."
            )
        self.norm0 = layers.group_norm(in_channels, style.eps)
        self.conv0 = ResampledConv(in_channels, out_channels, 3, resampling, style.taps)
        self.affine = nn.Linear(style.emb_channels, out_channels * (2 if style.adaptive else 1))
        self.norm1 = layers.group_norm(out_channels, style.eps)
        self.conv1 = ResampledConv(out_channels, out_channels, 3)
        self.skip: nn.Module | None = None
        if in_channels != out_channels or (resampling is not None and style.project):
            self.skip = ResampledConv(in_channels, out_channels, 1, resampling, style.taps)
        elif resampling is not None:
            self.skip = Resample(resampling, style.taps)
        if self.heads:
            self.norm2 = layers.group_norm(out_channels, style.eps)
            self.qkv = ResampledConv(out_channels, 3 * out_channels, 1)
            self.proj = ResampledConv(out_channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        style = self.style
        branch = layers.residual_branch(
            x,
            emb,
            (self.norm0, self.conv0, self.affine, self.norm1, self.conv1),
            dropout=style.dropout if self.training else 0.0,
            adaptive=style.adaptive,
        )
        x = self._sum(x if self.skip is None else self.skip(x), branch)
        return self._sum(x, self._attention(x)) if self.heads else x

    def _sum(self, shortcut: Tensor, branch: Tensor) -> Tensor:
        h = shortcut + branch
        return h if self.style.skip_scale == 1 else h * self.style.skip_scale

    def _attention(self, x: Tensor) -> Tensor:
        per_head = self.out_channels // self.heads  # within a head q, k and v alternate channel by channel
        q, k, v = self.qkv(self.norm2(x)).reshape(x.shape[0] * self.heads, per_head, 3, -1).unbind(2)
        h: Tensor = self.proj(layers.attend(q, k, v).reshape(x.shape))
        return h


def embed_class(
    layer: nn.Linear | None, class_labels: Tensor | None, emb: Tensor, gain: float, label_dropout: float
) -> Tensor:
    """Embedding of noise level and class: ``emb + layer(gain * class_labels)``.

    ``class_labels`` (B, label_dim) one-hot, zero rows or None for no class; rows are set to zero with probability
    ``label_dropout``. A network without classes (``layer`` None) leaves ``emb`` as it is.

    Raises ``ValueError`` for labels of another width and for labels given to a network without classes.
    """
    if layer is None:
        if class_labels is not None:
            raise ValueError("this network was built with label_dim=0 and cannot take class_labels; pass None.")
        return emb
    if class_labels is None:
        class_labels = emb.new_zeros(1, layer.in_features)
    if class_labels.shape[-1] != layer.in_features:
        raise ValueError(
            f"class_labels must be one-hot with {layer.in_features} columns (label_dim); "
            f"got shape {tuple(class_labels.shape)}."
        )
    labels = gain * class_labels.to(emb)
    if label_dropout:
        labels = labels * (torch.rand(labels.shape[0], 1, device=labels.device) >= label_dropout)
    h: Tensor = emb + layer(labels)
    return h
