"""Small convolutional classifier of 32x32 images with a whitening first layer, trained within a few epochs."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from common.checks.settings import check_positive, check_sequence, check_size

PATCH = 2
"""Side of the whitened patches in pixels."""


class WhitenedConvNet(nn.Module):
    """A convolution that whitens 2x2 patches, then stages of two 3x3 convolutions each: (B,C,32,32) -> (B,K).

    The weights of the first layer are not trained: its filters are the principal axes of the training images' patches,
    scaled to unit variance, and their negatives (`whiten` sets them; before that the axes are random). The trained
    layers therefore have decorrelated inputs, and few epochs suffice; the design is that of arXiv 2404.00498. Each
    stage is convolution, 2x2 maximum, batch norm, GELU, convolution, batch norm, GELU; its convolutions are
    initialised as the identity on as many channels as possible. The head is the maximum over the remaining positions
    and a linear layer, divided by ``temperature``.

    ``config`` holds the arguments. Raises ``ValueError`` unless ``widths`` names at least one stage, all at least 1.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 3,
        widths: Sequence[int] = (64, 256, 256),
        temperature: float = 9.0,
    ) -> None:
        super().__init__()
        check_size("num_classes", num_classes)
        check_size("in_channels", in_channels)
        check_sequence("widths, the stages' channels,", widths, check_size)
        check_positive("temperature", temperature)
        self.config = {
            "num_classes": num_classes,
            "in_channels": in_channels,
            "widths": list(widths),
            "temperature": temperature,
        }
        self.temperature = temperature
        size = in_channels * PATCH**2
        self.whitening = nn.Conv2d(in_channels, 2 * size, PATCH)
        self.whitening.weight.requires_grad_(False)
        stages: list[nn.Module] = [nn.GELU()]
        channels = 2 * size
        for width in widths:
            stages.append(_stage(channels, width))
            channels = width
        self.features = nn.Sequential(*stages)
        self.head = nn.Linear(channels, num_classes, bias=False)
        self._initialise()

    def _initialise(self) -> None:
        """Set random orthogonal axes in the first layer and identity kernels in the stages."""
        size = self.whitening.out_channels // 2
        with torch.no_grad():
            axes = nn.init.orthogonal_(torch.empty(size, size, device=self.whitening.weight.device))
            self._set_axes(axes, axes.new_zeros(size))
            for module in self.features.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.dirac_(module.weight[: min(module.in_channels, module.out_channels)])

    def _set_axes(self, axes: Tensor, centre: Tensor) -> None:
        """Set the filters to the rows of ``axes`` (S,S) and their negatives, with response 0 to ``centre`` (S,)."""
        filters = torch.cat((axes, -axes))
        self.whitening.weight.copy_(filters.reshape(self.whitening.weight.shape))
        self.whitening.bias.copy_(-filters @ centre)  # type: ignore[union-attr]

    @torch.no_grad()
    def whiten(self, images: Tensor, floor: float = 1e-4) -> None:
        """Set the first layer from images (N,C,H,W) in the frame of `forward`; ``floor`` is added to each variance."""
        patches = images.unfold(2, PATCH, 1).unfold(3, PATCH, 1).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(0, 2)
        patches = patches.to(torch.float64)
        variances, axes = torch.linalg.eigh(patches.T.cov())
        scaled = (axes / (variances.clamp(min=0) + floor).sqrt()).T.flip(0)  # the strongest axis first
        weight = self.whitening.weight
        self._set_axes(scaled.to(weight), patches.mean(0).to(weight))

    def forward(self, x: Tensor) -> Tensor:
        h = self.features(self.whitening(x).contiguous(memory_format=torch.channels_last))
        logits: Tensor = self.head(h.amax(dim=(2, 3))) / self.temperature
        return logits


def _stage(in_channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, width, 3, padding=1, bias=False),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(width),
        nn.GELU(),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.GELU(),
    )
