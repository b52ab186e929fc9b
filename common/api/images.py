"""Images and labels of the Python interface as a data module; errors name the remedy."""

from collections.abc import Sized
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from common.checks.settings import check_count
from common.data.folders import warn_of_numbers
from common.data.image_data import ImageData
from common.data.in_memory import InMemory

CHANNELS = (1, 3)  # of images, for the guess that a layout is wrong


BATCH_SIZE = 128


def as_data(images: Any, labels: Any, batch_size: int | None) -> ImageData:
    """The images as a data module, ready to test.

    Tensors (N,C,H,W) in [0,1] and (N,) integers; or a data set of (image, label, …), which is read into memory; or a
    data module, whose own batch size counts where ``batch_size`` is None. Raises ``ValueError`` for anything else.
    """
    classes: int | None = None
    if isinstance(images, ImageData):
        if labels is not None:
            raise ValueError(f"{type(images).__name__} has labels of its own: leave out labels")
        images.prepare_data()
        images.setup("test")
        if batch_size is None:
            return images
        other = copy(images)  # the user's own stays as it is
        other.batch_size = check_count("batch_size", batch_size)
        return other
    if isinstance(images, DataLoader):
        raise ValueError("images must be tensors, a data set or a data module; got a DataLoader. Pass loader.dataset")
    if isinstance(images, Dataset):
        if labels is not None:
            raise ValueError("a data set has labels of its own: leave out labels")
        names = getattr(images, "classes", None)  # of torchvision's data sets
        if isinstance(names, list | tuple) and names:
            classes = len(names)
            warn_of_numbers([str(name) for name in names], "the data set sorts", "its target_transform")
        images, labels = _stacked(images)
    elif labels is None and isinstance(images, Tensor | np.ndarray):
        raise ValueError("labels are missing: one class number per image, a tensor (N,)")
    image = check_images(images)
    size = BATCH_SIZE if batch_size is None else batch_size
    return InMemory(image, check_class_numbers(labels, len(image)), classes, batch_size=size)


def check_images(images: Any) -> Tensor:
    """Images as float32 (N,C,H,W) on the CPU. Raises ``ValueError``, in one sentence with the remedy."""
    if isinstance(images, np.ndarray):
        raise ValueError("images must be a tensor; got a NumPy array. Write torch.from_numpy(images)")
    if not isinstance(images, Tensor):
        remedy = ". Read a folder of images by Folder(root=...)" if isinstance(images, str | Path) else ""
        remedy = f" {images.__name__}. Write {images.__name__}(...)" if isinstance(images, type) else remedy
        raise ValueError(f"images must be a tensor (N,C,H,W) in [0,1]; got {type(images).__name__}{remedy}")
    images, shape = images.detach(), tuple(images.shape)
    if images.ndim == 3:
        remedy = "images[None] for a single image" if shape[0] in CHANNELS else "images[:, None] for grey images"
        raise ValueError(f"images must have shape (N,C,H,W); got {shape}. Write {remedy}")
    if images.ndim != 4 or not len(images):
        raise ValueError(f"images must have shape (N,C,H,W) with N >= 1; got {shape}")
    if shape[3] in CHANNELS and shape[1] not in CHANNELS:
        raise ValueError(f"images must have shape (N,C,H,W); got {shape}. Write images.permute(0, 3, 1, 2)")
    if not images.is_floating_point():
        raise ValueError(f"images must be floats in [0,1]; got {images.dtype}. Write images.float() / 255")
    if not bool(images.isfinite().all()):
        raise ValueError("images must be finite; got NaN or infinity")
    low, high = float(images.min()), float(images.max())
    if low < 0 or high > 1:
        if low < 0 or high <= 2:
            remedy = "Undo their normalisation, and move it into the network: NetworkClassifier(network, mean, std)"
        else:
            remedy = "Write images / 255" if high > 128 else "Divide by the largest value that a pixel can have"
        raise ValueError(f"images must be in [0,1]; got {low:.4g} to {high:.4g}. {remedy}")
    pixels: Tensor = images.to("cpu", torch.float32)
    return pixels


def check_class_numbers(labels: Any, count: int) -> Tensor:
    """Labels as int64 (N,) on the CPU. Raises ``ValueError``, in one sentence with the remedy."""
    kind = type(labels).__name__
    try:
        labels = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"labels must be a tensor (N,) of class numbers; got a {kind} ({error})") from error
    shape = tuple(labels.shape)
    if labels.ndim == 2 and len(labels) == count:
        remedy = "labels.argmax(1)" if shape[1] > 1 else "labels.squeeze(1)"
        raise ValueError(f"labels must have shape (N,), one class number per image; got {shape}. Write {remedy}")
    if shape != (count,):
        raise ValueError(f"labels must have shape ({count},), one class number per image; got {shape}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"labels must be integers; got {labels.dtype}. Write labels.long()")
    numbers: Tensor = labels.detach().to("cpu", torch.int64)
    if int(numbers.min()) < 0:
        raise ValueError(f"labels must be in 0..K-1; got {int(numbers.min())}. Subtract the smallest of your numbers")
    return numbers


def _stacked(images: Dataset[Any]) -> tuple[Tensor, Tensor]:
    """Images and labels of a data set whose items begin with them."""
    if not isinstance(images, Sized):
        raise ValueError("images must be a data set with a length; got an iterable one. Pass tensors")
    items = [images[position] for position in range(len(images))]
    if any(not isinstance(item, tuple | list) or len(item) < 2 for item in items):
        raise ValueError("the items of a data set must be (image, label); got others")
    pixels = [item[0] for item in items]
    if not all(isinstance(image, Tensor) for image in pixels):
        kind = next(type(image).__name__ for image in pixels if not isinstance(image, Tensor))
        raise ValueError(f"images of a data set must be tensors; got {kind}. Give it transform=ToTensor()")
    if len(sizes := {tuple(image.shape) for image in pixels}) > 1:
        raise ValueError(f"all images must have one size; got {sorted(sizes)[:3]}. Resize and crop them")
    return torch.stack(pixels), torch.tensor([int(item[1]) for item in items])
