"""The perceptual threat: images that look alike to a network, however far their pixels are apart."""

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from common.robustness.threats.norm_ball import Threat
from common.units import parse_number

Net = Literal["vgg", "alex", "squeeze"]

_SMALLEST = {"vgg": 16, "alex": 31, "squeeze": 17}  # side of the smallest image of which all layers leave something
_NAMES = {"vgg": "vgg16", "alex": "alexnet", "squeeze": "squeezenet1_1"}  # as torchvision calls them
_SLACK = 1e-4  # of eps: convolutions add up in another order in another batch


class LPIPS(nn.Module):
    """Learned perceptual image patch similarity (Zhang et al., arXiv 1801.03924), as torchmetrics has it.

    ``lpips(image, adv)``: (B,C,H,W) pixels in [0,1] twice -> (B,), at least 0; differentiable; float32 inside. C is 3,
    or 1, of which three equal colours are made. ``net`` is what features are compared: those of VGG-16, AlexNet or
    SqueezeNet. They need images of 16, 31 and 17 pixels a side; ``resize`` first brings them to a size, bilinearly.

    The network is torchvision's with its ImageNet weights, fetched at the first use and kept in torch's hub folder; it
    is no part of this module's state. Raises ``RuntimeError`` where the weights cannot be had.
    """

    def __init__(self, net: Net = "vgg", resize: int | None = None):
        super().__init__()
        if net not in get_args(Net):
            raise ValueError(f"net must be one of {', '.join(get_args(Net))}; got {net!r}")
        if resize is not None and resize < _SMALLEST[net]:
            raise ValueError(f"resize must be at least {_SMALLEST[net]} pixels for {net}, or None; got {resize}")
        self.config = {"net": net, "resize": resize}
        self._net, self._resize = net, resize
        self._loaded: list[nn.Module] = []  # not a submodule: its weights are a published file, not state of ours

    def forward(self, image: Tensor, adv: Tensor) -> Tensor:
        channels, side = image.shape[1], self._resize or min(image.shape[-2:])
        if channels not in (1, 3) or side < _SMALLEST[self._net]:
            need = f"1 or 3 channels and at least {_SMALLEST[self._net]} pixels a side"
            raise ValueError(
                f"LPIPS({self._net!r}) needs {need}; got {tuple(image.shape)}. A small one takes resize=64."
            )
        network = self._network().to(image.device)
        distance: Tensor = network(self._seen(image), self._seen(adv), normalize=True)
        return distance.flatten()

    def _seen(self, image: Tensor) -> Tensor:
        """What the network is shown, still in pixels: float32, three channels, enlarged."""
        image = image.float().expand(-1, 3, -1, -1)
        if self._resize is None:
            return image
        size = (self._resize, self._resize)
        return nn.functional.interpolate(image, size, mode="bilinear", align_corners=False)

    def _network(self) -> nn.Module:
        if not self._loaded:
            self._loaded.append(_lpips_network(self._net))
        return self._loaded[0]


class Perceptual(Threat):
    """``{ adv in [0,1]^D : metric(image, adv) <= eps }`` for a distance that a network measures.

    ``metric(image, adv)`` is a module (B,C,H,W), (B,C,H,W) -> (B,), both in pixels: 0 for equal images, else above,
    differentiable, and of each pair by itself. It is evaluated as it is: in evaluation mode and with its parameters
    frozen. The default is `LPIPS` of VGG-16, whose weights are fetched at its first use; DiffBreak (arXiv 2411.16598)
    bounds it by 0.05. ``name`` is the metric's class.
    """

    written = "a perceptual distance, Perceptual(eps, metric)"

    def __init__(self, eps: float | str = 0.05, metric: nn.Module | None = None):
        self.eps = parse_number(eps)
        if not 0 < self.eps < torch.inf:
            raise ValueError(f"eps must be a distance above 0, in the units of the metric; got {self.eps}")
        self.metric = (LPIPS() if metric is None else metric).requires_grad_(False).eval()

    @property
    def name(self) -> str:
        """The class of the metric, ``"LPIPS"`` by default."""
        return type(self.metric).__name__

    def distance(self, image: Tensor, adv: Tensor) -> Tensor:
        """``metric(image, adv)``, (B,) float64; differentiable."""
        distance: Tensor = self.metric.to(image.device)(image, adv)
        if distance.shape != image.shape[:1]:
            got = f"{tuple(distance.shape)} for {len(image)} images"
            raise ValueError(f"a metric returns one distance per image, (B,); {self.name} returned {got}")
        return distance.double()

    def check(self, image: Tensor, adv: Tensor) -> Tensor:
        """Whether each adv is allowed, (B,) bool: finite, exactly in [0,1], and ``distance <= (1 + 1e-4) eps``.

        The tolerance is for the rounding of a network that is given the same pair in another batch.
        """
        inside = ((adv >= 0) & (adv <= 1)).flatten(1).all(1)
        with torch.no_grad():
            near: Tensor = self.distance(image, adv.nan_to_num(0, 0, 0).clamp(0, 1)) <= (1 + _SLACK) * self.eps
        return inside & near


def _lpips_network(net: Net) -> nn.Module:
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity  # a second to import
    from torchvision.models import get_model_weights

    try:
        metric: Any = LearnedPerceptualImagePatchSimilarity(net_type=net)
    except (OSError, RuntimeError) as error:
        raise RuntimeError(
            f"LPIPS({net!r}) needs torchvision's ImageNet weights of that network, and they could not be had: {error}. "
            f"Put {get_model_weights(_NAMES[net]).DEFAULT.url} into {torch.hub.get_dir()}/checkpoints."
        ) from error
    network: nn.Module = metric.net
    return network.requires_grad_(False).eval()
