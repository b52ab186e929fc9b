"""Images from a known distribution: a Gaussian mixture around random patterns, one per class.

Methods can be compared on them with the exact score, denoiser and Bayes classifier of `common.exact`.
"""

from typing import Any

import torch

from common.checks.settings import check_not_negative, check_number, check_seed, check_sequence, check_size
from common.data.datasets import ImageDataset
from common.data.image_data import ImageData
from common.exact import GaussianMixture
from common.noise import Noise
from common.units import to_pixel

SPLITS = {"train": 2048, "val": 256, "held_out": 512}


class Synthetic(ImageData):
    """``num_classes`` random patterns of shape ``shape``, pixels in ``0.5 +- 0.5 contrast``, plus noise N(0, std²).

    ``std`` is in the model frame. Pixels leave [0,1] with probability below 1e-5 at the defaults and are clamped;
    ``mixture`` is the distribution before clamping, in the model frame. All images are a function of ``seed``.
    ``loading`` holds the arguments of `ImageData`.
    """

    def __init__(
        self,
        num_classes: int = 4,
        shape: tuple[int, int, int] = (1, 8, 8),
        contrast: float = 0.5,
        std: float = 0.1,
        seed: int = 0,
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        check_size("num_classes", num_classes, 2)
        check_number("contrast", contrast, above=0, at_most=1)
        check_not_negative("std", std)
        if len(check_sequence("shape, (C,H,W),", shape, check_size, 3)) != 3:
            raise ValueError(f"shape must be (C,H,W); got {shape}")
        self.num_classes, self.shape, self.seed = num_classes, shape, check_seed("seed", seed)
        self.channels, self.contrast, self.std = shape[0], contrast, std
        patterns = Noise.of(seed, torch.arange(num_classes)).stream("patterns").uniform(0, shape)
        self.mixture = GaussianMixture(contrast * (2 * patterns - 1), std)

    def load(self, stage: str | None = None) -> None:
        for name, size in SPLITS.items():
            x0, label = self.mixture.sample(Noise.of(self.seed, torch.arange(size)).stream(name))
            setattr(self, name, ImageDataset(to_pixel(x0).clamp(0, 1), label))
