"""Subject of a benchmark: networks of two sizes with random weights, under an engine, and a batch for them."""

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from common.checks.settings import check_one_of
from common.engine.engine import Engine
from common.experiments.suites import built
from common.noise import Noise

CLASSES, SIDE, CHANNELS = 10, 32, 3

DENOISERS = {  # parameters: 0.19 million and 5.0 million
    "small": {"model_channels": 16, "channel_mult": [1, 2]},
    "medium": {"model_channels": 64, "channel_mult": [1, 2, 2]},
}
"""Sizes of the class-conditional DDPM++ by name."""


def part(name: str, **arguments: Any) -> Any:
    """The object of a class by its short name."""
    return built({"class_path": name, "init_args": arguments})


@dataclass(frozen=True)
class Subject:
    """Networks on a device, frozen and in evaluation mode, with a batch of images in [0,1]."""

    denoiser: Any
    classifier: Any
    guidance: Any
    image: Tensor
    label: Tensor
    noise: Noise
    running: ExitStack  # the engine, as long as the subject is held

    @classmethod
    def of(cls, size: str, batch: int, engine: Engine, device: torch.device) -> "Subject":
        """The networks of a ``size``, the denoiser under an engine. Raises ``ValueError`` for an unknown size."""
        options = DENOISERS[check_one_of("--network", size, tuple(DENOISERS))]
        network = part(
            "DDPMpp", img_resolution=SIDE, img_channels=CHANNELS, label_dim=CLASSES, num_blocks=1,
            attn_resolutions=[16], dropout=0.0, **options,
        )  # fmt: skip
        _wake(network)
        denoiser = part("EDMDenoiser", network=network, num_classes=CLASSES)
        classifier = part("NetworkClassifier", network=part("SmallCNN", num_classes=CLASSES, in_channels=CHANNELS))
        guidance = part(
            "AdversarialGuidance", network=part("GuidanceNetwork", in_channels=CHANNELS, num_classes=CLASSES)
        )
        for module in (denoiser, classifier, guidance):
            module.to(device).eval().requires_grad_(False)
        running = ExitStack()
        running.enter_context(engine.on(device).applied(denoiser))
        index = torch.arange(batch, device=device)
        image = Noise.of(0, index).uniform(0, (CHANNELS, SIDE, SIDE))
        return cls(denoiser, classifier, guidance, image, index % CLASSES, Noise.of(0, index), running)


def _wake(network: nn.Module) -> None:
    """Give the last layers of residual blocks weights; at initialisation they are nearly zero."""
    for parameter in network.parameters():
        if parameter.ndim > 1 and float(parameter.detach().std()) < 1e-4:
            nn.init.normal_(parameter, std=0.02)
