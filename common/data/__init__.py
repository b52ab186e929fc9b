"""Data modules: batches of (image (B,C,H,W) float32 in [0,1], label (B,) int64, index (B,) int64)."""

from common.data.benchmarks import CIFAR10, CIFAR100, SVHN
from common.data.celebahq import CelebAHQ
from common.data.digits import Digits
from common.data.folders import Folder, ImageNet
from common.data.module import ImageData
from common.data.subsets import (
    NDCCIFAR10,
    Balanced,
    DensePureCIFAR10,
    DiffPureCIFAR10,
    DiffPureCIFAR10BPDA,
    DiffPureImageNet,
    Every,
    Jobs,
    LeeKimCIFAR10,
    Listed,
    NDCImageNet,
    Seeded,
    Subset,
)
from common.data.synthetic import Synthetic

__all__ = [
    "Balanced",
    "CIFAR10",
    "CIFAR100",
    "CelebAHQ",
    "DensePureCIFAR10",
    "DiffPureCIFAR10",
    "DiffPureCIFAR10BPDA",
    "DiffPureImageNet",
    "Digits",
    "Every",
    "Folder",
    "ImageData",
    "ImageNet",
    "Jobs",
    "LeeKimCIFAR10",
    "Listed",
    "NDCCIFAR10",
    "NDCImageNet",
    "SVHN",
    "Seeded",
    "Subset",
    "Synthetic",
]
