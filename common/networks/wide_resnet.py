"""Wide residual networks (Zagoruyko & Komodakis, arXiv 1605.07146) with RobustBench's tensor names."""

import math
from typing import Any, Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from common.checks.settings import check_flag, check_number, check_one_of, check_size
from common.networks.small_cnn import ACTIVATIONS, Activation

Norm = Literal["batch", "group"]


def normalisation(norm: Norm, channels: int) -> nn.Module:
    """Batch norm, or group norm in 16 groups (fewer where they do not divide the channels)."""
    return nn.BatchNorm2d(channels) if norm == "batch" else nn.GroupNorm(math.gcd(16, channels), channels)


class WideBlock(nn.Module):
    """Pre-activation residual block; where the width changes, the shortcut starts after the first activation."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        dropout: float,
        activation: Activation = "relu",
        norm: Norm = "batch",
    ) -> None:
        super().__init__()
        self.bn1 = normalisation(norm, in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn2 = normalisation(norm, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.convShortcut = (
            None if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
        )
        self.activation, self.dropout = ACTIVATIONS[activation](), dropout

    def forward(self, x: Tensor) -> Tensor:
        active = self.activation(self.bn1(x))
        h = self.activation(self.bn2(self.conv1(active)))
        if self.dropout and self.training:
            h = F.dropout(h, self.dropout)
        out: Tensor = self.conv2(h) + (x if self.convShortcut is None else self.convShortcut(active))
        return out


class WideStage(nn.Module):
    """Blocks of one width; the first has the stride."""

    def __init__(self, blocks: int, in_channels: int, out_channels: int, stride: int, *options: Any) -> None:
        super().__init__()
        self.layer = nn.Sequential(
            *(
                WideBlock(out_channels if i else in_channels, out_channels, 1 if i else stride, *options)
                for i in range(blocks)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.layer(x)
        return h


class WideResNet(nn.Module):
    """WRN-``depth``-``widen_factor``, e.g. WRN-28-10: pixels (B,3,H,W), not normalised -> logits (B,K).

    Three stages of ``(depth - 4) / 6`` blocks with 16, 32, 64 times ``widen_factor`` channels, the mean over positions,
    and a linear layer (without bias if not ``bias_last``). ``dropout`` acts between the two convolutions of a block,
    in training only. ``sub_block1`` adds the unused copy of the first stage that some published files carry.
    ``activation="silu"`` makes the network smooth, as a guidance needs it, and ``norm="group"`` keeps the images of a
    batch independent in training too; tensor names stay the same.

    ``config`` holds the arguments, the last two if they differ from the published ones. Raises ``ValueError`` for a
    depth that is not 6n + 4, an unknown activation or norm.
    """

    def __init__(
        self,
        depth: int = 28,
        widen_factor: int = 10,
        num_classes: int = 10,
        in_channels: int = 3,
        dropout: float = 0.0,
        sub_block1: bool = False,
        bias_last: bool = True,
        activation: Activation = "relu",
        norm: Norm = "batch",
    ) -> None:
        super().__init__()
        sizes = {"depth": depth, "widen_factor": widen_factor, "num_classes": num_classes, "in_channels": in_channels}
        for name, size in sizes.items():
            check_size(name, size)
        check_number("dropout", dropout, at_least=0, below=1)
        check_flag("sub_block1", sub_block1)
        check_flag("bias_last", bias_last)
        check_one_of("activation", activation, ACTIVATIONS)
        check_one_of("norm", norm, get_args(Norm))
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"the depth of a wide ResNet must be 6n + 4 with n >= 1, e.g. 28; got {depth}.")
        changed = {"activation": (activation, "relu"), "norm": (norm, "batch")}
        self.config: dict[str, Any] = {
            "depth": depth,
            "widen_factor": widen_factor,
            "num_classes": num_classes,
            "in_channels": in_channels,
            "dropout": dropout,
            "sub_block1": sub_block1,
            "bias_last": bias_last,
            **{name: value for name, (value, published) in changed.items() if value != published},
        }
        options = (dropout, activation, norm)
        blocks, widths = (depth - 4) // 6, [16, 16 * widen_factor, 32 * widen_factor, 64 * widen_factor]
        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        self.block1 = WideStage(blocks, widths[0], widths[1], 1, *options)
        if sub_block1:
            self.sub_block1 = WideStage(blocks, widths[0], widths[1], 1, *options)
        self.block2 = WideStage(blocks, widths[1], widths[2], 2, *options)
        self.block3 = WideStage(blocks, widths[2], widths[3], 2, *options)
        self.bn1 = normalisation(norm, widths[3])
        self.activation = ACTIVATIONS[activation]()
        self.fc = nn.Linear(widths[3], num_classes, bias=bias_last)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if bias_last:
            nn.init.zeros_(self.fc.bias)

    def forward(self, image: Tensor) -> Tensor:
        h = self.block3(self.block2(self.block1(self.conv1(image))))
        logits: Tensor = self.fc(self.activation(self.bn1(h)).mean(dim=(2, 3)))
        return logits
