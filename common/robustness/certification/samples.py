"""Samples of images that several ranks count: what one publishes for the others, and its slices."""

import math
from collections.abc import Sequence
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
    """Samples of some images: of image m the draws first[m], first[m] + 1, …, count[m] of them.

    ``place`` is that of the ``counter`` in the list that all ranks share.
    """

    def __init__(
        self, counter: SampleCounter, place: int, size: int, slices: int, seed: int, depth: int, **parts: Tensor
    ) -> None:
        self.counter, self.place, self.size, self.slices = counter, place, size, slices
        self.seed, self.depth = seed, depth
        self.image, self.index, self.first, self.number = (
            parts[name] for name in ("image", "index", "first", "number")
        )
        self.rows = parts.get("rows", torch.arange(len(self.image)))

    @classmethod
    def of(
        cls,
        counters: Sequence[SampleCounter],
        counter: SampleCounter,
        image: Tensor,
        owner: Tensor,
        noise: Noise,
        size: int,
    ) -> "Samples":
        """The call of consecutive draws ``noise`` (R,) of each image in ``owner`` (R,)."""
        rows, number = torch.unique_consecutive(owner, return_counts=True)
        begin = number.cumsum(0) - number
        parts = {"image": image[rows], "index": noise.index[begin], "first": noise.draw[begin], "number": number}
        place = next(place for place, one in enumerate(counters) if one is counter)
        slices = math.ceil(len(owner) / size)
        return cls(counter, place, size, slices, noise.seed, noise.depth, rows=rows, **parts)

    @classmethod
    def read(cls, content: dict[str, Any], counters: Sequence[SampleCounter]) -> "Samples":
        """The call of another rank."""
        place = content.pop("counter")
        return cls(counters[place], place, **content)

    def content(self) -> dict[str, Any]:
        """The call for the others."""
        numbers = {"size": self.size, "slices": self.slices, "seed": self.seed, "depth": self.depth}
        tensors = {name: getattr(self, name) for name in ("image", "index", "first", "number")}
        return {"counter": self.place, **numbers, **tensors}

    def part(self, classifier: Classifier, number: int) -> dict[str, Tensor]:
        """Class ``counts`` (B,K) of slice ``number``."""
        counter, begin = self.counter, self.number.cumsum(0) - self.number
        owner = torch.arange(len(self.image), device=self.image.device).repeat_interleave(self.number)
        place = torch.arange(len(owner), device=self.image.device)
        part = slice(number * self.size, (number + 1) * self.size)
        owner, place = owner[part], place[part]
        rows = Noise(self.seed, self.index[owner], self.first[owner] + place - begin[owner], self.depth)
        output = classifier(counter.noisy(self.image[owner], rows), rows)
        found = owner * counter.num_classes + counter.decided(output, len(rows))
        counts = torch.bincount(found, minlength=len(self.image) * counter.num_classes)
        return {"counts": counts.view(len(self.image), -1)}
