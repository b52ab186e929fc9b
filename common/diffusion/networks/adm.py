"""The U-Net of ADM (Dhariwal & Nichol, arXiv 2105.05233) under two published namings: guided diffusion's and EDM's.

`ADM` is also the body of improved diffusion (Nichol & Dhariwal, arXiv 2102.09672) and takes an integer noise level;
`EDMADM` is the network that EDM trained on ImageNet-64 (Karras et al., arXiv 2206.00364) and takes ``ln(sigma)/4``.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.checks.settings import check_optional, check_size
from common.diffusion.networks import layers
from common.diffusion.networks.edm_blocks import BlockStyle, ResampledConv, UNetBlock, embed_class
from common.diffusion.networks.layers import ConvUpsample

BOX = (1, 1)  # both publishers resample by nearest neighbour and the 2x2 mean

ConvLayer = TypeVar("ConvLayer", nn.Conv1d, nn.Conv2d)


# Guided diffusion's naming --------------------------------------------------------------------------------------------


_norm = partial(layers.group_norm_32, eps=1e-5)
_conv = partial(nn.Conv2d, kernel_size=3, padding=1)


def _zeroed(layer: ConvLayer) -> ConvLayer:
    """The layer with all weights zero, so that its branch or output starts at zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class ResBlock(nn.Module):
    """Residual block: the noise level shifts it, or scales and shifts if ``adaptive``; resampled by two on request."""

    kernel: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        emb_channels: int,
        dropout: float,
        adaptive: bool,
        resampling: Literal["up", "down"] | None = None,
    ) -> None:
        super().__init__()
        self.dropout, self.adaptive, self.resampling = dropout, adaptive, resampling
        self.register_buffer("kernel", layers.resampling_kernel(BOX), persistent=False)
        self.in_layers = nn.Sequential(_norm(in_channels), nn.SiLU(), _conv(in_channels, out_channels))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb_channels, (2 if adaptive else 1) * out_channels))
        self.out_layers = nn.Sequential(
            _norm(out_channels), nn.SiLU(), nn.Dropout(dropout), _zeroed(_conv(out_channels, out_channels))
        )
        same = in_channels == out_channels
        self.skip_connection = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def _resample(self, x: Tensor) -> Tensor:
        return layers.upsample(x, self.kernel) if self.resampling == "up" else layers.downsample(x, self.kernel)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """x (B,in,H,W), emb (B,E) already activated -> (B,out,H',W')."""
        branch = layers.residual_branch(
            x,
            emb,
            (self.in_layers[0], self.in_layers[2], self.emb_layers[1], self.out_layers[0], self.out_layers[3]),
            resample=None if self.resampling is None else self._resample,
            dropout=self.dropout if self.training else 0.0,
            adaptive=self.adaptive,
        )
        out: Tensor = self.skip_connection(x if self.resampling is None else self._resample(x)) + branch
        return out


class Attention(nn.Module):
    """Self-attention over positions; the outer index of the 3C channels is the head, or q, k, v if ``qkv_first``."""

    def __init__(self, channels: int, heads: int, qkv_first: bool) -> None:
        super().__init__()
        if heads < 1 or channels % heads:
            raise ValueError(f"num_heads must divide the width {channels} of a block with attention; got {heads}.")
        self.heads, self.qkv_first = heads, qkv_first
        self.norm = _norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = _zeroed(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        rows, channels = x.shape[:2]
        flat = x.flatten(2)
        qkv = self.qkv(self.norm(flat))
        if self.qkv_first:
            q, k, v = (part.reshape(rows * self.heads, channels // self.heads, -1) for part in qkv.chunk(3, dim=1))
        else:
            q, k, v = qkv.reshape(rows * self.heads, 3 * channels // self.heads, -1).chunk(3, dim=1)
        out: Tensor = flat + self.proj_out(layers.attend(q, k, v).reshape(flat.shape))
        return out.reshape(x.shape)


class Downsample(nn.Module):
    """Down-sampling by two: a convolution of stride 2 or the 2x2 mean."""

    def __init__(self, channels: int, conv: bool) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1) if conv else nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.op(x)
        return h


class ADM(nn.Module):
    """The U-Net of guided and improved diffusion with the options of its publishers.

    ``network(x, timesteps, y=None)``: ``x`` (B,C,H,W) model frame at unit variance; ``timesteps`` (B,) or (), the index
    of the noise level, integer or not; ``y`` (B,) int64 or (B,K) one-hot, the class, only for a network with
    ``num_classes``, where None or a zero row adds no class (which the publishers never trained). Returns
    (B, ``out_channels``, H, W): the noise, followed by the raw variance if ``out_channels = 2C``. ``config`` holds the
    constructor's arguments.

    Args:
        image_size: side of the images; a multiple of ``2**(levels - 1)``.
        in_channels, model_channels, out_channels: of the image, base width, of the output.
        num_res_blocks: residual blocks per level, one more on the way up.
        attention_resolutions: *down-sampling factors* at which every block is followed by attention.
        dropout: rate in the residual blocks, in training only.
        channel_mult: width of each level in units of the base width, finest first.
        conv_resample: resampling has a 3x3 convolution; without effect under ``resblock_updown``.
        num_classes: K, None for an unconditional network.
        num_heads: attention heads on the way down; num_heads_upsample: on the way up, -1 for the same.
        num_head_channels: width of a head, which then decides their number and must divide the width of every block
            with attention; -1 to use ``num_heads``.
        use_scale_shift_norm: the noise level scales and shifts instead of being added.
        resblock_updown: residual blocks resample.
        use_new_attention_order: q, k, v come before heads in the order of channels.

    Raises ``ValueError`` for sizes that do not fit.
    """

    def __init__(
        self,
        image_size: int,
        in_channels: int = 3,
        model_channels: int = 128,
        out_channels: int = 3,
        num_res_blocks: int = 2,
        attention_resolutions: Sequence[int] = (),
        dropout: float = 0.0,
        channel_mult: Sequence[float] = (1, 2, 4, 8),
        conv_resample: bool = True,
        num_classes: int | None = None,
        num_heads: int = 1,
        num_head_channels: int = -1,
        num_heads_upsample: int = -1,
        use_scale_shift_norm: bool = False,
        resblock_updown: bool = False,
        use_new_attention_order: bool = False,
    ) -> None:
        arguments = layers.constructor_arguments(locals())
        super().__init__()
        self.config = arguments
        _check_adm(arguments)
        layers.levels_of(image_size, channel_mult)
        self.model_channels, self.num_res_blocks, self.num_classes = model_channels, num_res_blocks, num_classes
        emb = 4 * model_channels
        self.time_embed = nn.Sequential(nn.Linear(model_channels, emb), nn.SiLU(), nn.Linear(emb, emb))
        self.label_emb = None if num_classes is None else nn.Embedding(num_classes, emb)

        block = partial(ResBlock, emb_channels=emb, dropout=dropout, adaptive=use_scale_shift_norm)

        def attend(channels: int, heads: int) -> Attention:
            if num_head_channels != -1:
                if num_head_channels < 1 or channels % num_head_channels:
                    raise ValueError(
                        f"num_head_channels, the width of an attention head, must divide the width {channels} of a "
                        f"block with attention; got {num_head_channels}. Give a divisor, or -1 to use num_heads."
                    )
                heads = channels // num_head_channels
            return Attention(channels, heads, use_new_attention_order)

        def down(channels: int) -> nn.Module:
            return (
                block(channels, channels, resampling="down") if resblock_updown else Downsample(channels, conv_resample)
            )

        def up(channels: int) -> nn.Module:
            return (
                block(channels, channels, resampling="up") if resblock_updown else ConvUpsample(channels, conv_resample)
            )

        widths = [int(mult * model_channels) for mult in channel_mult]
        attends = [2**level in set(attention_resolutions) for level in range(len(widths))]
        heads_up = num_heads if num_heads_upsample == -1 else num_heads_upsample
        self.input_blocks = nn.ModuleList([nn.Sequential(_conv(in_channels, widths[0]))])
        stored = self._build_way_down(widths, attends, block, partial(attend, heads=num_heads), down)
        width = widths[-1]
        self.middle_block = nn.Sequential(block(width, width), attend(width, num_heads), block(width, width))
        self.output_blocks = nn.ModuleList()
        self._build_way_up(stored, widths, attends, block, partial(attend, heads=heads_up), up)
        self.out = nn.Sequential(_norm(widths[0]), nn.SiLU(), _zeroed(_conv(widths[0], out_channels)))

    def _build_way_down(
        self,
        widths: list[int],
        attends: list[bool],
        block: Callable[[int, int], nn.Module],
        attend: Callable[[int], nn.Module],
        down: Callable[[int], nn.Module],
    ) -> list[int]:
        """Append to ``input_blocks``; returns the widths of the activations stored for the way up."""
        stored = [widths[0]]
        for level, out in enumerate(widths):
            for _ in range(self.num_res_blocks):
                parts = [block(stored[-1], out), *([attend(out)] if attends[level] else [])]
                self.input_blocks.append(nn.Sequential(*parts))
                stored.append(out)
            if level < len(widths) - 1:
                self.input_blocks.append(nn.Sequential(down(out)))
                stored.append(out)
        return stored

    def _build_way_up(
        self,
        stored: list[int],
        widths: list[int],
        attends: list[bool],
        block: Callable[[int, int], nn.Module],
        attend: Callable[[int], nn.Module],
        up: Callable[[int], nn.Module],
    ) -> None:
        width = widths[-1]
        for level in range(len(widths) - 1, -1, -1):
            for index in range(self.num_res_blocks + 1):
                parts = [block(width + stored.pop(), widths[level])]
                width = widths[level]
                parts += [attend(width)] if attends[level] else []
                parts += [up(width)] if level and index == self.num_res_blocks else []
                self.output_blocks.append(nn.Sequential(*parts))

    def embed(self, timesteps: Tensor, y: Tensor | None, dtype: torch.dtype) -> Tensor:
        """Noise level and class as one activated vector, (B,E) or (1,E)."""
        emb = layers.cosinusoidal(timesteps.reshape(-1).float(), self.model_channels)
        emb = self.time_embed(emb.to(dtype))
        if y is None:
            return F.silu(emb)
        if self.label_emb is None:
            raise ValueError("this network was built without num_classes and cannot take a label; pass None.")
        one_hot = y.is_floating_point()
        return F.silu(emb + (y.to(emb) @ self.label_emb.weight if one_hot else self.label_emb(y)))

    def forward(self, x: Tensor, timesteps: Tensor, y: Tensor | None = None) -> Tensor:
        emb = self.embed(timesteps, y, x.dtype)
        stored = []
        for block in self.input_blocks:
            x = _apply(block, x, emb)
            stored.append(x)
        x = _apply(self.middle_block, x, emb)
        for block in self.output_blocks:
            x = _apply(block, torch.cat([x, stored.pop()], dim=1), emb)
        out: Tensor = self.out(x)
        return out


def _apply(block: nn.Module, x: Tensor, emb: Tensor) -> Tensor:
    for layer in block.children():
        x = layer(x, emb) if isinstance(layer, ResBlock) else layer(x)
    return x


# EDM's naming ---------------------------------------------------------------------------------------------------------


def _check_adm(arguments: dict[str, Any]) -> None:
    """Raise ``ValueError`` for arguments of an `ADM` that are no sizes, rates and flags."""
    layers.check_body(
        arguments,
        counts="image_size in_channels model_channels out_channels num_res_blocks num_heads",
        rates="dropout",
        flags="conv_resample use_scale_shift_norm resblock_updown use_new_attention_order",
        lists="attention_resolutions",
        factors="channel_mult",
    )
    check_optional(check_size, "num_classes", arguments["num_classes"])
    for name in ("num_head_channels", "num_heads_upsample"):
        if type(arguments[name]) is not int or arguments[name] != -1:
            check_size(name, arguments[name], note="-1 takes num_heads")


class EDMADM(nn.Module):
    """ADM as EDM publishes it: 64 channels per attention head, residual blocks resample, classes are one-hot.

    ``network(x, c_noise, class_labels=None)`` as for `DDPMpp`. ``config`` holds the constructor's arguments.

    Args:
        img_resolution: side H = W of the images; a multiple of ``2**(levels - 1)``.
        img_channels: channels C of the images, in and out.
        label_dim: number of classes, 0 for an unconditional network.
        augment_dim: width of the augmentation labels seen in training, 0 for none; not given, they count as zero.
        model_channels: base width. channel_mult: width of each level in units of it, finest first.
        channel_mult_emb: width of the embedding in the same units.
        num_blocks: residual blocks per level, one more on the way up.
        attn_resolutions: sides at which blocks attend over positions.
        dropout: rate inside the residual blocks. label_dropout: probability to hide the class; both in training only.

    Raises ``ValueError`` for sizes that do not fit.
    """

    def __init__(
        self,
        img_resolution: int,
        img_channels: int = 3,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 192,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        channel_mult_emb: int = 4,
        num_blocks: int = 3,
        attn_resolutions: Sequence[int] = (32, 16, 8),
        dropout: float = 0.10,
        label_dropout: float = 0.0,
    ) -> None:
        arguments = layers.constructor_arguments(locals())
        super().__init__()
        self.config = arguments
        layers.check_body(
            arguments,
            counts="img_resolution img_channels model_channels channel_mult_emb num_blocks",
            sizes="label_dim augment_dim",
            rates="dropout label_dropout",
            lists="attn_resolutions",
            multipliers="channel_mult",
        )
        self.model_channels, self.label_dropout = model_channels, label_dropout
        emb_channels = model_channels * channel_mult_emb
        style = BlockStyle(
            emb_channels,
            adaptive=True,
            channels_per_head=64,
            project=False,
            skip_scale=1.0,
            eps=1e-5,
            taps=BOX,
            dropout=dropout,
        )
        self.map_augment = nn.Linear(augment_dim, model_channels, bias=False) if augment_dim else None
        self.map_layer0 = nn.Linear(model_channels, emb_channels)
        self.map_layer1 = nn.Linear(emb_channels, emb_channels)
        self.map_label = nn.Linear(label_dim, emb_channels, bias=False) if label_dim else None

        sides = layers.levels_of(img_resolution, channel_mult)
        widths = [model_channels * mult for mult in channel_mult]
        attends = [side in set(attn_resolutions) for side in sides]
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        stored = self._build_way_down(img_channels, sides, widths, attends, num_blocks, style)
        self._build_way_up(stored, sides, widths, attends, num_blocks, style)
        self.out_norm = layers.group_norm(widths[0], style.eps)
        self.out_conv = ResampledConv(widths[0], img_channels, 3)
        self._initialise()

    def _build_way_down(
        self,
        img_channels: int,
        sides: list[int],
        widths: list[int],
        attends: list[bool],
        num_blocks: int,
        style: BlockStyle,
    ) -> list[int]:
        """Fill ``enc``; returns the widths of the activations stored for the way up."""
        self.enc[f"{sides[0]}x{sides[0]}_conv"] = ResampledConv(img_channels, widths[0], 3)
        stored = [widths[0]]
        for level, side in enumerate(sides):
            if level:
                self.enc[f"{side}x{side}_down"] = UNetBlock(stored[-1], stored[-1], style, resampling="down")
                stored.append(stored[-1])
            for index in range(num_blocks):
                self.enc[f"{side}x{side}_block{index}"] = UNetBlock(stored[-1], widths[level], style, attends[level])
                stored.append(widths[level])
        return stored

    def _build_way_up(
        self,
        stored: list[int],
        sides: list[int],
        widths: list[int],
        attends: list[bool],
        num_blocks: int,
        style: BlockStyle,
    ) -> None:
        width = widths[-1]
        for level in range(len(sides) - 1, -1, -1):
            at = f"{sides[level]}x{sides[level]}"
            if level == len(sides) - 1:
                self.dec[f"{at}_in0"] = UNetBlock(width, width, style, attention=True)
                self.dec[f"{at}_in1"] = UNetBlock(width, width, style)
            else:
                self.dec[f"{at}_up"] = UNetBlock(width, width, style, resampling="up")
            for index in range(num_blocks + 1):
                self.dec[f"{at}_block{index}"] = UNetBlock(width + stored.pop(), widths[level], style, attends[level])
                width = widths[level]

    def _initialise(self) -> None:
        """PyTorch's defaults, with last layers at zero and class embeddings at unit variance."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d) and name.endswith(("conv1", "proj", "out_conv")):
                nn.init.zeros_(module.weight)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        if self.map_augment is not None:
            nn.init.zeros_(self.map_augment.weight)
        if self.map_label is not None:
            nn.init.normal_(self.map_label.weight)

    def embed(self, c_noise: Tensor, class_labels: Tensor | None, augment_labels: Tensor | None) -> Tensor:
        """Noise level, class and augmentation as one activated vector, (B,E) or (1,E)."""
        emb = layers.cosinusoidal(c_noise.reshape(-1), self.model_channels).to(self.map_layer0.weight.dtype)
        if self.map_augment is not None and augment_labels is not None:
            emb = emb + self.map_augment(augment_labels.to(emb))
        emb = self.map_layer1(F.silu(self.map_layer0(emb)))
        return F.silu(embed_class(self.map_label, class_labels, emb, 1.0, self.label_dropout if self.training else 0.0))

    def forward(
        self, x: Tensor, c_noise: Tensor, class_labels: Tensor | None = None, augment_labels: Tensor | None = None
    ) -> Tensor:
        emb = self.embed(c_noise, class_labels, augment_labels)
        stored: list[Tensor] = []
        for layer in self.enc.values():
            x = layer(x, emb) if isinstance(layer, UNetBlock) else layer(x)
            stored.append(x)
        for name, layer in self.dec.items():
            x = layer(torch.cat([x, stored.pop()], dim=1) if "_block" in name else x, emb)
        out: Tensor = self.out_conv(F.silu(self.out_norm(x)))
        return out
