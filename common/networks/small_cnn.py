"""Small convolutional classifier of 8x8 digits, trained in seconds."""

from typing import Literal

from torch import Tensor, nn

from common.checks.settings import check_number, check_one_of, check_size

Activation = Literal["relu", "silu", "gelu", "softplus"]
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU, "gelu": nn.GELU, "softplus": nn.Softplus}


class SmallCNN(nn.Module):
    """Two stages of two 3x3 convolutions, ``width`` and ``2 width`` channels, and a mean: (B,C,H,W) -> (B,K).

    Group normalisation keeps rows independent, and training and evaluation the same function. ``activation="silu"`` (or
    "gelu", "softplus") makes the network twice differentiable everywhere, as a guidance needs it; "relu" is piecewise
    linear.

    ``config`` holds the arguments. Raises ``ValueError`` for an unknown activation and for a width not divisible by 8.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        width: int = 32,
        activation: Activation = "relu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_size("num_classes", num_classes)
        check_size("in_channels", in_channels)
        check_one_of("activation", activation, ACTIVATIONS)
        check_number("dropout", dropout, at_least=0, below=1)
        if check_size("width", width, note="It is a multiple of 8") % 8:
            raise ValueError(f"width must be a positive multiple of 8; got {width}.")
        self.config = {
            "num_classes": num_classes,
            "in_channels": in_channels,
            "width": width,
            "activation": activation,
            "dropout": dropout,
        }
        layers: list[nn.Module] = []
        channels = in_channels
        for stage, out_channels in enumerate((width, width, 2 * width, 2 * width)):
            if stage == 2:
                layers.append(nn.AvgPool2d(2))
            layers += [nn.Conv2d(channels, out_channels, 3, padding=1, bias=False), nn.GroupNorm(8, out_channels)]
            layers.append(ACTIVATIONS[activation]())
            channels = out_channels
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Flatten(1), nn.Dropout(dropout), nn.Linear(channels, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(x).mean(dim=(2, 3), keepdim=True))
        return logits
