"""Residual networks for 32x32 images (He et al., arXiv 1512.03385) with the tensor names of PyTorch's CIFAR models."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from common.checks.settings import check_one_of, check_sequence, check_size

Block = Literal["bottleneck", "basic"]


class BasicBlock(nn.Module):
    """relu(x + f(x)), f = two 3x3 convolutions of ``width`` channels, the first with the stride.

    Where shapes change, the shortcut is a 1x1 convolution with batch norm.
    """

    expansion: ClassVar[int] = 1

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = _shortcut(in_channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        h = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(h + self.shortcut(x))


class Bottleneck(nn.Module):
    """relu(x + f(x)), f = 1x1, 3x3 and 1x1 convolutions of ``width``, ``width`` and ``4 width`` channels.

    The 3x3 convolution carries the stride. Where shapes change, the shortcut is a 1x1 convolution with batch norm.
    """

    expansion: ClassVar[int] = 4

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        out_channels = self.expansion * width
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.shortcut = _shortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.bn1(self.conv1(x)))
        h = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(h)))))
        return F.relu(h + self.shortcut(x))


KINDS: dict[str, type[BasicBlock | Bottleneck]] = {"bottleneck": Bottleneck, "basic": BasicBlock}


class CIFARResNet(nn.Module):
    """ResNet for small images: (B,C,H,W) -> logits (B,K).

    | network | ``block`` | ``blocks`` | parameters for 10 classes |
    |---|---|---|---|
    | ResNet-18 | basic | (2, 2, 2, 2) | 11.2 million |
    | ResNet-34 | basic | (3, 4, 6, 3) | 21.3 million |
    | ResNet-50 | bottleneck | (3, 4, 6, 3) | 23.5 million |
    | ResNet-101 | bottleneck | (3, 4, 23, 3) | 42.5 million |

    ImageNet's network with a 3x3 convolution of stride 1 and no pooling as its stem: four stages of `BasicBlock` or
    `Bottleneck` with widths 64, 128, 256 and 512, all but the first halving the image, then the mean over positions
    and a linear layer. DiffPure's classifier for unseen threats is a ResNet-50 of this kind.

    ``config`` holds the arguments, ``block`` if it is not "bottleneck". Raises ``ValueError`` unless there are four
    stages of at least one block.
    """

    def __init__(
        self,
        num_classes: int = 10,
        blocks: Sequence[int] = (3, 4, 6, 3),
        in_channels: int = 3,
        block: Block = "bottleneck",
    ) -> None:
        super().__init__()
        check_size("num_classes", num_classes)
        check_size("in_channels", in_channels)
        check_one_of("block", block, get_args(Block))
        if len(check_sequence("blocks", blocks, check_size, 0)) != 4:
            raise ValueError(f"blocks must be four numbers of at least 1, e.g. [3, 4, 6, 3]; got {list(blocks)}.")
        self.config: dict[str, Any] = {
            "num_classes": num_classes,
            "blocks": list(blocks),
            "in_channels": in_channels,
            **({} if block == "bottleneck" else {"block": block}),
        }
        kind = KINDS[block]
        self.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = _stage(kind, blocks[0], 64, 64, 1)
        self.layer2 = _stage(kind, blocks[1], 64 * kind.expansion, 128, 2)
        self.layer3 = _stage(kind, blocks[2], 128 * kind.expansion, 256, 2)
        self.layer4 = _stage(kind, blocks[3], 256 * kind.expansion, 512, 2)
        self.linear = nn.Linear(512 * kind.expansion, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> Tensor:
        h = self.layer1(F.relu(self.bn1(self.conv1(image))))
        h = self.layer4(self.layer3(self.layer2(h)))
        logits: Tensor = self.linear(h.mean(dim=(2, 3)))
        return logits


def _stage(
    kind: type[BasicBlock | Bottleneck], blocks: int, in_channels: int, width: int, stride: int
) -> nn.Sequential:
    rest = [kind(kind.expansion * width, width, 1) for _ in range(blocks - 1)]
    return nn.Sequential(kind(in_channels, width, stride), *rest)


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """The identity, or where shapes change a 1x1 convolution with batch norm."""
    if stride == 1 and in_channels == out_channels:
        return nn.Sequential()
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))
