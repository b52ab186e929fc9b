"""Samples of images that several ranks count: what one publishes for the others, and its slices."""

import io
from typing import Any, Protocol

import torch
from torch import Tensor

from common.noise import Noise
from common.robustness.classifiers import Classifier


class SampleCounter(Protocol):
    """A certifier as its samples are counted: `Smoothing`."""

    @property
    def batch_size(self) -> int:
        """Samples per call of the classifier, at most."""

    @property
    def num_classes(self) -> int:
        """K, the classifier's."""

    def noisy(self, image: Tensor, rows: Noise) -> Tensor:
        """One sample of each image, with the noise of its row."""

    def decided(self, output: Tensor, rows: int) -> Tensor:
        """Classes (R,) of the classifier's output for ``rows`` samples."""


class Samples:
    """Samples of some images: of image m the draws first[m], first[m] + 1, …, count[m] of them."""

    def __init__(self, counter: int, size: int, seed: int, depth: int, **parts: Tensor) -> None:
        self.counter, self.size, self.seed, self.depth = counter, size, seed, depth
        self.image, self.index, self.first, self.number = (
            parts[name] for name in ("image", "index", "first", "number")
        )
        self.rows = parts.get("rows", torch.arange(len(self.image)))

    @classmethod
    def of(cls, counter: int, image: Tensor, owner: Tensor, noise: Noise, size: int) -> "Samples":
        """The call of consecutive draws ``noise`` (R,) of each image in ``owner`` (R,)."""
        rows, number = torch.unique_consecutive(owner, return_counts=True)
        begin = number.cumsum(0) - number
        parts = {"image": image[rows], "index": noise.index[begin], "first": noise.draw[begin], "number": number}
        return cls(counter, size, noise.seed, noise.depth, rows=rows, **parts)

    @classmethod
    def read(cls, content: dict[str, Any], classifier: Classifier) -> "Samples":
        """The call of another rank, on this rank's device."""
        device = next((one.device for one in (*classifier.parameters(), *classifier.buffers())), torch.device("cpu"))
        moved: dict[str, Any] = {
            name: one.to(device) if isinstance(one, Tensor) else one for name, one in content.items()
        }
        return cls(**moved)

    def content(self) -> bytes:
        """The call as a text for the others."""
        tensors = {name: getattr(self, name).cpu() for name in ("image", "index", "first", "number")}
        return packed({"counter": self.counter, "size": self.size, "seed": self.seed, "depth": self.depth, **tensors})

    def count(self, counter: SampleCounter, classifier: Classifier, number: int) -> Tensor:
        """Class counts (B,K) of slice ``number``."""
        begin = self.number.cumsum(0) - self.number
        owner = torch.arange(len(self.image), device=self.image.device).repeat_interleave(self.number)
        place = torch.arange(len(owner), device=self.image.device)
        part = slice(number * self.size, (number + 1) * self.size)
        owner, place = owner[part], place[part]
        rows = Noise(self.seed, self.index[owner], self.first[owner] + place - begin[owner], self.depth)
        output = classifier(counter.noisy(self.image[owner], rows), rows)
        found = owner * counter.num_classes + counter.decided(output, len(rows))
        return torch.bincount(found, minlength=len(self.image) * counter.num_classes).view(len(self.image), -1)


def packed(content: dict[str, Any]) -> bytes:
    """Tensors and numbers as bytes."""
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def unpacked(content: bytes) -> dict[str, Any]:
    """Tensors and numbers of `packed` bytes."""
    found: dict[str, Any] = torch.load(io.BytesIO(content), weights_only=True)
    return found
