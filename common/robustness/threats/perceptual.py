"""Perceptual threat: images within a distance that a network measures, such as LPIPS."""

from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from common.checks.settings import check_count, check_one_of, check_optional, check_part, check_positive, check_ratio
from common.numerics.copies import copied
from common.robustness.threats.threat import Threat, in_box

Net = Literal["vgg", "alex", "squeeze"]

_SMALLEST = {"vgg": 16, "alex": 31, "squeeze": 17}  # side in pixels at which the last layer still has an output
_NAMES = {"vgg": "vgg16", "alex": "alexnet", "squeeze": "squeezenet1_1"}  # in torchvision
_SLACK = 1e-4  # relative to eps: the order of summation in convolutions depends on the batch


class LPIPS(nn.Module):
    """Learned perceptual image patch similarity (Zhang et al., arXiv 1801.03924), by torchmetrics.

    ``lpips(image, adv)``: (B,C,H,W) pixels in [0,1] twice -> (B,), at least 0; differentiable; float32 inside. C is 3,
    or 1, which is repeated to three channels. ``net`` selects the features: VGG-16, AlexNet or SqueezeNet. They need
    images of at least 16, 31 and 17 pixels a side; ``resize`` first resizes to a square of that side, bilinearly.

    The network is torchvision's with its ImageNet weights, downloaded at the first use into torch's hub folder; it is
    not part of this module's state. Raises ``RuntimeError`` if the weights are not available.
    """

    not_identifying: ClassVar[frozenset[str]] = frozenset({"_loaded"})

    def __init__(self, net: Net = "vgg", resize: int | None = None):
        super().__init__()
        check_one_of("net", net, get_args(Net))
        check_optional(check_count, f"resize, in pixels for {net},", resize, _SMALLEST[net])
        self.config = {"net": net, "resize": resize}
        self._net, self._resize = net, resize
        self._loaded: list[nn.Module] = []  # not a submodule: its published weights are not part of the state

    def forward(self, image: Tensor, adv: Tensor) -> Tensor:
        channels, side = image.shape[1], self._resize or min(image.shape[-2:])
        if channels not in (1, 3) or side < _SMALLEST[self._net]:
            need = f"1 or 3 channels and at least {_SMALLEST[self._net]} pixels a side"
            raise ValueError(
                f"LPIPS({self._net!r}) needs {need}; got {tuple(image.shape)}. For small images set resize=64."
            )
        network = self._network().to(image.device)
        distance: Tensor = network(self._prepared(image), self._prepared(adv), normalize=True)
        return distance.flatten()

    def _prepared(self, image: Tensor) -> Tensor:
        """Input of the network, in pixels: float32, three channels, resized."""
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

    ``metric(image, adv)`` is a module (B,C,H,W), (B,C,H,W) -> (B,), both in pixels: 0 for equal images, positive for
    others, differentiable, and independent of the other pairs of the batch. It runs in evaluation mode with frozen
    parameters. The default is `LPIPS` of VGG-16, whose weights are downloaded at its first use; DiffBreak
    (arXiv 2411.16598) bounds it by 0.05. ``name`` is the metric's class.
    """

    constructor = "a perceptual distance, Perceptual(eps, metric)"

    def __init__(self, eps: float | str = 0.05, metric: nn.Module | None = None):
        self.eps = check_positive("eps, in the units of the metric,", check_ratio("eps", eps))
        check_optional(check_part, "metric", metric, nn.Module, "a module")
        self.metric = (LPIPS() if metric is None else metric).requires_grad_(False).eval()

    @property
    def name(self) -> str:
        """The class of the metric, ``"LPIPS"`` by default."""
        return type(self.metric).__name__

    def distance(self, image: Tensor, adv: Tensor) -> Tensor:
        """``metric(image, adv)``, (B,) float64; differentiable."""
        distance: Tensor = self.metric.to(image.device)(*copied(image, adv))
        if distance.shape != image.shape[:1]:
            got = f"{tuple(distance.shape)} for {len(image)} images"
            raise ValueError(f"a metric returns one distance per image, (B,); {self.name} returned {got}")
        return distance.double()

    def check(self, image: Tensor, adv: Tensor) -> Tensor:
        """True where adv is allowed, (B,) bool: finite, exactly in [0,1], and ``distance <= (1 + 1e-4) eps``.

        The tolerance covers the network's rounding, which differs between batches.
        """
        with torch.no_grad():
            near: Tensor = self.distance(image, adv.nan_to_num(0, 0, 0).clamp(0, 1)) <= (1 + _SLACK) * self.eps
        return in_box(adv) & near


def _lpips_network(net: Net) -> nn.Module:
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity  # a second to import
    from torchvision.models import get_model_weights

    try:
        metric: Any = LearnedPerceptualImagePatchSimilarity(net_type=net)
    except (OSError, RuntimeError) as error:
        raise RuntimeError(
            f"LPIPS({net!r}) needs torchvision's ImageNet weights of that network, which are not available: {error}. "
            f"Put {get_model_weights(_NAMES[net]).DEFAULT.url} into {torch.hub.get_dir()}/checkpoints."
        ) from error
    network: nn.Module = metric.net
    return network.requires_grad_(False).eval()
