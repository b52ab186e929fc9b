"""Data modules: batches of (image (B,C,H,W) float32 in [0,1], label (B,) int64, index (B,) int64)."""

from common.data.augmentation import Augmentation
from common.data.celebahq import CelebAHQ
from common.data.crop import Crop
from common.data.datasets import ImageDataset
from common.data.digits import Digits
from common.data.folders import Folder, ImageFileData, ImageNet
from common.data.image_data import ImageData
from common.data.image_files import ImageFiles
from common.data.in_memory import InMemory
from common.data.published_subsets import (
    NDCCIFAR10,
    DensePureCIFAR10,
    DiffPureCIFAR10,
    DiffPureCIFAR10BPDA,
    DiffPureImageNet,
    LeeKimCIFAR10,
    NDCImageNet,
)
from common.data.subsets import Balanced, Every, Jobs, Listed, Seeded, Subset
from common.data.synthetic import Synthetic
from common.data.torchvision_sets import CIFAR10, CIFAR100, SVHN

__all__ = [
    "Augmentation",
    "Balanced",
    "CIFAR10",
    "CIFAR100",
    "CelebAHQ",
    "Crop",
    "DensePureCIFAR10",
    "DiffPureCIFAR10",
    "DiffPureCIFAR10BPDA",
    "DiffPureImageNet",
    "Digits",
    "Every",
    "Folder",
    "ImageData",
    "ImageDataset",
    "ImageFileData",
    "ImageFiles",
    "ImageNet",
    "InMemory",
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
