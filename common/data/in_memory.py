"""Test images given as tensors."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from common.checks.settings import check_count, check_optional, check_part
from common.data.datasets import ImageDataset
from common.data.image_data import ImageData


class InMemory(ImageData):
    """Data module of test images in memory: ``images`` (N,C,H,W) float32 in [0,1], ``labels`` (N,) int64.

    ``num_classes``: number of classes, since the labels may lack the last ones; a test then refuses a classifier of
    another number. Records are identified by the values of images and labels. There are no training images.
    ``loading`` holds the arguments of `ImageData`.
    """

    def __init__(self, images: Tensor, labels: Tensor, num_classes: int | None = None, **loading: Any) -> None:
        super().__init__(**loading)
        self._declared_classes = check_optional(check_count, "num_classes", num_classes)
        check_part("images", images, Tensor)
        check_part("labels", labels, Tensor)
        if images.ndim != 4 or images.dtype != torch.float32 or labels.dtype != torch.int64:
            got = f"{images.dtype} of shape {tuple(images.shape)} and {labels.dtype}"
            raise ValueError(f"images must be float32 (N,C,H,W) and labels int64 (N,); got {got}")
        self.images, self.labels = images, labels
        self.num_classes = num_classes or (int(labels.max()) + 1 if len(labels) else 0)
        self.shape = (images.shape[1], images.shape[2], images.shape[3])
        self.channels = images.shape[1]
        self.held_out = ImageDataset(images, labels)

    not_identifying: ClassVar[frozenset[str]] = ImageData.not_identifying | {"num_classes"}

    @property
    def declared_classes(self) -> int | None:
        return self._declared_classes

    def load(self, stage: str | None = None) -> None:
        if stage in ("fit", "validate"):
            raise ValueError("InMemory holds test images alone; train with a data module of common.data")
