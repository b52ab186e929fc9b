"""Labelled images in memory and in files: item ``i`` is (image (C,H,W) float32 in [0,1], label, i)."""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.checks.settings import check_part
from common.data.crop import Crop
from common.data.decoding import UnreadableImageError, decode_image, image_size

Example = tuple[Tensor, int, int]  # image (C,H,W) in [0,1], label, index

HASHED_SIZES = 64  # files whose sizes take part in the identity of a data set


class LabelledImages(Protocol):
    """Data set of images: ``labels`` (N,) int64, and item ``i`` is (image, label, i)."""

    @property
    def labels(self) -> Tensor: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


class ImageDataset(Dataset[Example]):
    """Images in memory: ``images`` (N,C,H,W), float32 in [0,1] or uint8 in 0 .. 255; ``labels`` (N,) int64."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        check_part("images", images, Tensor)
        check_part("labels", labels, Tensor)
        if images.ndim < 1 or labels.ndim != 1 or len(images) != len(labels):
            got = f"{tuple(images.shape)} and {tuple(labels.shape)}"
            raise ValueError(f"images and labels must be one label per image; got shapes {got}")
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Example:
        image = self.images[index]
        return image / 255 if image.dtype == torch.uint8 else image, int(self.labels[index]), index


class BadImageError(ValueError):
    """Image that a data set cannot use. Raised in a worker process, it arrives without that process's traceback."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason.split(f"{type(self).__name__}: ")[-1].strip())


class ImageFileDataset(Dataset[Example]):
    """Image files with labels, decoded on access. ``names`` are relative to ``root``.

    Access raises ``BadImageError`` for a damaged file and for an image of another size than the first.
    """

    def __init__(self, root: Path, names: Sequence[str], labels: Sequence[int], crop: Crop) -> None:
        self.root, self.names, self.crop = root, names, crop
        self.labels = torch.tensor(labels, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def sides(self) -> tuple[int, int]:
        """(H,W) of every image: that of the crop or, without resizing, of the first image."""
        return self.crop.sides or image_size(self.root / self.names[0])

    def __getitem__(self, index: int) -> Example:
        path = self.root / self.names[index]
        try:
            image = self.crop(decode_image(path))
        except UnreadableImageError as error:
            raise BadImageError(f"{path} is damaged: {error}. A test needs every image: replace this file.") from error
        if image.shape[1:] != self.sides:
            sides, first = (f"{height}x{width}" for height, width in (image.shape[1:], self.sides))
            raise BadImageError(f"{path} has {sides} pixels, the first image {first}: set data.init_args.size")
        return image, int(self.labels[index]), index

    def split(self, every: int) -> tuple["ImageFileDataset", "ImageFileDataset"]:
        """All other images, and every ``every``-th, each set with indices of its own."""
        held_out = range(every - 1, len(self), every)
        rest = [index for index in range(len(self)) if index % every != every - 1]
        return self._selection(rest), self._selection(held_out)

    def _selection(self, indices: Sequence[int]) -> "ImageFileDataset":
        names, labels = [self.names[i] for i in indices], [int(self.labels[i]) for i in indices]
        return ImageFileDataset(self.root, names, labels, self.crop)

    def identity(self) -> dict[str, Any]:
        """Number of images, and a sha256 over names, labels and the sizes of some files; independent of the folder."""
        rows = zip(self.names, self.labels.tolist(), strict=True)
        digest = hashlib.sha256("\n".join(f"{name} {label}" for name, label in rows).encode())
        for name in self.names[:: max(1, len(self) // HASHED_SIZES)]:
            digest.update(f" {(self.root / name).stat().st_size}".encode())
        return {"images": len(self), "sha256": digest.hexdigest()}
