"""Test subsets of the papers, as their code draws them.

Each needs the data set in its published order. ``tests/common/data/test_subsets.py`` checks the papers' statements.
"""

import hashlib

import torch
from torch import Tensor

from common.data.subsets import Every, Jobs, Subset, draw_without_replacement

CIFAR10_FIRST_LABELS = "15ba8119c84de3db85383d9b517ca42d5ef1fc11d5d78354a6cd5e1db6ab7a11"
"""sha256 of the first 500 labels of CIFAR-10's test images, as digits."""


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
        return draw_without_replacement(0, len(_cifar10(labels, self)), 512)


class NDCCIFAR10(Subset):
    """The first 512 CIFAR-10 test images, on which NDC is certified (Chen et al., arXiv 2402.02316)."""

    def order(self, labels: Tensor) -> list[int]:
        return list(range(len(_cifar10(labels, self))))[:512]


class NDCImageNet(Subset):
    """The 512 ImageNet validation images on which NDC is certified (arXiv 2402.02316), drawn with seed 0."""

    def order(self, labels: Tensor) -> list[int]:
        return draw_without_replacement(0, len(_imagenet(labels, self)), 512)


class DensePureCIFAR10(Subset):
    """Every 20th CIFAR-10 test image, 500 of them (DensePure: Xiao et al., arXiv 2211.00322)."""

    def order(self, labels: Tensor) -> list[int]:
        return Every(20).order(_cifar10(labels, self))


def _cifar10(labels: Tensor, subset: Subset) -> Tensor:
    """The labels, checked to be those of the CIFAR-10 test images in their published order.

    Checks the number of images per class, and the first 500 labels, which two independent lists confirm.
    """
    first = hashlib.sha256("".join(map(str, labels[:500].tolist())).encode()).hexdigest()
    matches = len(labels) == 10_000 and labels.bincount().tolist() == [1000] * 10 and first == CIFAR10_FIRST_LABELS
    return _check_set(matches, 10_000, "test images of CIFAR-10, as published (common.data.CIFAR10)", labels, subset)


def _imagenet(labels: Tensor, subset: Subset) -> Tensor:
    """The labels, checked to be those of the ImageNet validation images by class, 50 each: torchvision's order."""
    matches = torch.equal(labels, torch.arange(50_000) // 50)
    return _check_set(matches, 50_000, "ImageNet validation images, by class (common.data.ImageNet)", labels, subset)


def _check_set(matches: bool, images: int, name: str, labels: Tensor, subset: Subset) -> Tensor:
    if not matches:
        wrong = f"has {len(labels):,}" if len(labels) != images else "is another, or in another order"
        raise ValueError(
            f"{type(subset).__name__} lists positions among the {images:,} {name}; this set {wrong}. "
            "For any set there are Seeded, Balanced, Every and Listed."
        )
    return labels
