"""Test subsets as data: which images of a test set are evaluated, and in which order.

A subset is an order: a test takes the first ``test_images`` of it. A longer test therefore continues a shorter one of
the same subset, and indices in records are always those of the whole data set. Two people who name the same subset
have the same images; what the papers say about theirs is checked in ``tests/common/data/test_subsets.py``.
"""

import hashlib
import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

CIFAR10_TEST_STARTS = "15ba8119c84de3db85383d9b517ca42d5ef1fc11d5d78354a6cd5e1db6ab7a11"
"""sha256 of the first 500 labels of CIFAR-10's test images, as digits."""


class Subset:
    """``order(labels)``: positions in a test set with these labels (N,), each at most once, in the order of the test.

    Raises ``ValueError`` for a test set that the subset is not meant for.
    """

    def order(self, labels: Tensor) -> list[int]:
        raise NotImplementedError


@dataclass(frozen=True)
class Seeded(Subset):
    """A random order: NumPy's ``RandomState(seed).permutation(N)``.

    Its first n are ``RandomState(seed).choice(N, n, replace=False)``, the papers' usual draw.
    """

    seed: int = 0

    def __post_init__(self) -> None:
        _check_seed(self.seed)

    def order(self, labels: Tensor) -> list[int]:
        return _draw(self.seed, len(labels), len(labels))


@dataclass(frozen=True)
class Balanced(Subset):
    """Classes in turn, a random image of each: with K classes, every first m K images hold m of each class.

    A class that has no image left is passed over.
    """

    seed: int = 0

    def __post_init__(self) -> None:
        _check_seed(self.seed)

    def order(self, labels: Tensor) -> list[int]:
        generator, label = np.random.RandomState(self.seed), labels.numpy()
        classes = [generator.permutation(np.flatnonzero(label == c)).tolist() for c in np.unique(label)]
        longest = max(map(len, classes), default=0)
        return [members[turn] for turn in range(longest) for members in classes if turn < len(members)]


@dataclass(frozen=True)
class Every(Subset):
    """Every ``step``-th image from ``start`` on."""

    step: int
    start: int = 0

    def __post_init__(self) -> None:
        if self.step < 1 or self.start < 0:
            raise ValueError(f"need step >= 1 and start >= 0; got step={self.step}, start={self.start}")

    def order(self, labels: Tensor) -> list[int]:
        return list(range(self.start, len(labels), self.step))


@dataclass(frozen=True)
class Jobs(Subset):
    """What ``jobs`` runs with data seeds 0, 1, … draw of ``images`` each, every image once.

    A run draws without replacement, but two runs may draw the same image: the union is smaller than jobs x images.
    """

    jobs: int
    images: int

    def __post_init__(self) -> None:
        if self.jobs < 1 or self.images < 1:
            raise ValueError(f"need jobs >= 1 and images >= 1; got jobs={self.jobs}, images={self.images}")

    def order(self, labels: Tensor) -> list[int]:
        if self.images > len(labels):
            raise ValueError(f"a job draws at most the {len(labels)} test images; got images={self.images}")
        draws = [_draw(seed, len(labels), self.images) for seed in range(self.jobs)]
        return list(dict.fromkeys(index for draw in draws for index in draw))


class Listed(Subset):
    """The indices in a file, in its order: numbers between blanks, commas or lines, or a JSON list; # for comments.

    Records know the list by its length and sha256, so the file may move.
    """

    def __init__(self, file: str | Path) -> None:
        path = Path(file).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"no index file {path}; it holds the indices of test images, one per line")
        text = re.sub(r"#.*", "", path.read_text(encoding="utf-8-sig", errors="replace")).strip()
        if text.startswith("[") and text.endswith("]"):
            text = text[1:-1]
        words = [word for word in re.split(r"[\s,]+", text) if word]
        wrong = [word[:20] for word in words if not word.isdecimal()]
        if wrong or not words:
            raise ValueError(f"{path} must hold indices >= 0, one per line; got {wrong[:3] or 'none'}")
        self._file, self._indices = path, [int(word) for word in words]
        if again := [index for index, times in Counter(self._indices).items() if times > 1]:
            raise ValueError(f"{path} must name each image once; {again[:3]} come again")
        self.images = len(words)
        self.sha256 = hashlib.sha256(json.dumps(self._indices).encode()).hexdigest()

    def order(self, labels: Tensor) -> list[int]:
        if max(self._indices) >= len(labels):
            many = f"indices must be below {len(labels)}, the number of test images"
            raise ValueError(f"{many}; {self._file} has {max(self._indices)}")
        return list(self._indices)


# The papers' own lists ------------------------------------------------------------------------------------------------


class DiffPureCIFAR10(Subset):
    """DiffPure's CIFAR-10 images (Nie et al., arXiv 2205.07460): 8 jobs of 64, stated as 512, are 504 images.

    The first 64 are those of data seed 0.
    """

    def order(self, labels: Tensor) -> list[int]:
        return Jobs(8, 64).order(_cifar10(labels, self))


class DiffPureCIFAR10BPDA(Subset):
    """DiffPure's images for BPDA+EOT on CIFAR-10 (arXiv 2205.07460): 5 jobs of 200 are 960 images."""

    def order(self, labels: Tensor) -> list[int]:
        return Jobs(5, 200).order(_cifar10(labels, self))


class DiffPureImageNet(Subset):
    """DiffPure's ImageNet validation images (arXiv 2205.07460): 32 jobs of 16, stated as 512, are 510 images."""

    def order(self, labels: Tensor) -> list[int]:
        return Jobs(32, 16).order(_imagenet(labels, self))


class LeeKimCIFAR10(Subset):
    """Lee and Kim's 512 CIFAR-10 images (ICCV 2023, arXiv 2303.09051), drawn with seed 0."""

    def order(self, labels: Tensor) -> list[int]:
        return _draw(0, len(_cifar10(labels, self)), 512)


class NDCCIFAR10(Subset):
    """The first 512 CIFAR-10 test images, which NDC is certified on (Chen et al., arXiv 2402.02316)."""

    def order(self, labels: Tensor) -> list[int]:
        return list(range(len(_cifar10(labels, self))))[:512]


class NDCImageNet(Subset):
    """The 512 ImageNet validation images that NDC is certified on (arXiv 2402.02316), drawn with seed 0."""

    def order(self, labels: Tensor) -> list[int]:
        return _draw(0, len(_imagenet(labels, self)), 512)


class DensePureCIFAR10(Subset):
    """Every 20th CIFAR-10 test image, 500 of them (DensePure: Xiao et al., arXiv 2211.00322)."""

    def order(self, labels: Tensor) -> list[int]:
        return Every(20).order(_cifar10(labels, self))


def _draw(seed: int, total: int, images: int) -> list[int]:
    drawn: list[int] = np.random.RandomState(seed).choice(total, images, replace=False).tolist()
    return drawn


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 2**32:
        raise ValueError(f"NumPy's seeds are in 0 .. 2^32 - 1; got {seed}")


def _cifar10(labels: Tensor, subset: Subset) -> Tensor:
    """The labels, if they can be those of the CIFAR-10 test images in their published order.

    Checked are how many there are of each class and the first 500, which two independent lists confirm.
    """
    first = hashlib.sha256("".join(map(str, labels[:500].tolist())).encode()).hexdigest()
    there = len(labels) == 10_000 and labels.bincount().tolist() == [1000] * 10 and first == CIFAR10_TEST_STARTS
    return _meant(there, 10_000, "test images of CIFAR-10, as published (common.data.CIFAR10)", labels, subset)


def _imagenet(labels: Tensor, subset: Subset) -> Tensor:
    """The labels, if they are those of the ImageNet validation images by class, 50 each: torchvision's order."""
    there = torch.equal(labels, torch.arange(50_000) // 50)
    return _meant(there, 50_000, "ImageNet validation images, by class (common.data.ImageNet)", labels, subset)


def _meant(there: bool, images: int, what: str, labels: Tensor, subset: Subset) -> Tensor:
    if not there:
        wrong = f"has {len(labels):,}" if len(labels) != images else "is another, or in another order"
        raise ValueError(
            f"{type(subset).__name__} lists positions among the {images:,} {what}; this set {wrong}. "
            "Subsets of any set are Seeded, Balanced, Every and Listed."
        )
    return labels
