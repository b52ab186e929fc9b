"""Test images given as tensors."""

from typing import Any

import torch
from torch import Tensor

from common.checks.settings import check_part
from common.data.datasets import ImageDataset
from common.data.image_data import ImageData


class InMemory(ImageData):
    """Data module of test images in memory: ``images`` (N,C,H,W) float32 in [0,1], ``labels`` (N,) int64.

    Records are identified by the values of both. There are no training images. ``loading`` holds the arguments of
    `ImageData`.
    """

    def __init__(self, images: Tensor, labels: Tensor, **loading: Any) -> None:
        super().__init__(**loading)
        check_part("images", images, Tensor)
        check_part("labels", labels, Tensor)
        if images.ndim != 4 or images.dtype != torch.float32 or labels.dtype != torch.int64:
            got = f"{images.dtype} of shape {tuple(images.shape)} and {labels.dtype}"
            raise ValueError(f"images must be float32 (N,C,H,W) and labels int64 (N,); got {got}")
        self.images, self.labels = images, labels
        self.num_classes = int(labels.max()) + 1 if len(labels) else 0
        self.shape = (images.shape[1], images.shape[2], images.shape[3])
        self.channels = images.shape[1]
        self.held_out = ImageDataset(images, labels)

    def load(self, stage: str | None = None) -> None:
        if stage in ("fit", "validate"):
            raise ValueError("InMemory holds test images alone; train with a data module of common.data")
