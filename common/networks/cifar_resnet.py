"""Residual networks for 32x32 images (He et al., arXiv 1512.03385) with the tensor names of PyTorch's CIFAR models."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from common.checks.settings import check_count, check_sequence

EXPANSION = 4


class Bottleneck(nn.Module):
    """relu(x + f(x)), f = 1x1, 3x3 and 1x1 convolutions of ``width``, ``width`` and ``4 width`` channels.

    The 3x3 convolution carries the stride. Where shapes change, the shortcut is a 1x1 convolution with batch norm.
    """

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        out_channels = EXPANSION * width
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.bn1(self.conv1(x)))
        h = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(h)))))
        return F.relu(h + self.shortcut(x))


class CIFARResNet(nn.Module):
    """ResNet for small images: (B,C,H,W) -> logits (B,K). ``blocks`` (3, 4, 6, 3) is ResNet-50, (3, 4, 23, 3) 101.

    ImageNet's network with a 3x3 convolution of stride 1 and no pooling as its stem: four stages of `Bottleneck` with
    widths 64, 128, 256 and 512, all but the first halving the image, then the mean over positions and a linear layer.
    DiffPure's classifier for unseen threats is a ResNet-50 of this kind, with 23.5 million parameters.

    ``config`` holds the arguments. Raises ``ValueError`` unless there are four stages of at least one block.
    """

    def __init__(self, num_classes: int = 10, blocks: Sequence[int] = (3, 4, 6, 3), in_channels: int = 3) -> None:
        super().__init__()
        check_count("num_classes", num_classes)
        check_count("in_channels", in_channels)
        if len(check_sequence("blocks", blocks, check_count, 0)) != 4:
            raise ValueError(f"blocks must be four numbers of at least 1, e.g. [3, 4, 6, 3]; got {list(blocks)}.")
        self.config = {"num_classes": num_classes, "blocks": list(blocks), "in_channels": in_channels}
        self.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = _stage(blocks[0], 64, 64, 1)
        self.layer2 = _stage(blocks[1], 256, 128, 2)
        self.layer3 = _stage(blocks[2], 512, 256, 2)
        self.layer4 = _stage(blocks[3], 1024, 512, 2)
        self.linear = nn.Linear(2048, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> Tensor:
        h = self.layer1(F.relu(self.bn1(self.conv1(image))))
        h = self.layer4(self.layer3(self.layer2(h)))
        logits: Tensor = self.linear(h.mean(dim=(2, 3)))
        return logits


def _stage(blocks: int, in_channels: int, width: int, stride: int) -> nn.Sequential:
    rest = [Bottleneck(EXPANSION * width, width, 1) for _ in range(blocks - 1)]
    return nn.Sequential(Bottleneck(in_channels, width, stride), *rest)
