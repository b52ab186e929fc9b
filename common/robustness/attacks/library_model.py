"""The classifier as attacks of other packages expect it: a plain module."""

import math
import sys
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from common.noise import Noise
from common.robustness.classifiers import Classifier


def installed(package: str) -> bool:
    """True if the package can be imported."""
    if package in sys.modules:
        return sys.modules[package] is not None
    return find_spec(package) is not None


class LibraryModel(nn.Module):
    """The classifier as a module image -> logits, with fresh noise at every call and a parameter on its device.

    The classifier is not a submodule, since the package would switch it between training and evaluation mode.
    """

    def __init__(self, classifier: Classifier, noise: Noise, device: torch.device):
        super().__init__()
        self.device = nn.Parameter(torch.empty(0, device=device), requires_grad=False)
        self._classify = classifier.__call__
        self._noise = noise
        self._calls = self._rows = 0

    def forward(self, image: Tensor) -> Tensor:
        self._calls += 1
        self._rows += len(image)
        draws = self._noise.stream(f"call {self._calls}").draws(math.ceil(len(image) / len(self._noise)))
        logits: Tensor = self._classify(image, draws.rows(slice(len(image))))
        return logits

    def queries(self, images: int) -> Tensor:
        """Mean forward passes per image, (images,), rounded up: the package does not pass the index of a row."""
        return torch.full((images,), math.ceil(self._rows / images), device=self.device.device)
