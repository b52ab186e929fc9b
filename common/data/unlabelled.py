"""Images without labels, for prediction: the files under a path, in batches of one size."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.checks.settings import MissingFileError
from common.data.crop import Crop
from common.data.decoding import SUFFIXES, UnreadableImageError, decode_image, image_size, list_image_files

NO_LABEL = -1
"""Label of an image that has none."""


class UnlabelledImages:
    """Image files under ``path``, a folder with its sub-folders or one file, in alphabetical order.

    ``names`` are relative to ``root``. ``indices`` are hashes of the names (`name_indices`), which the noise of an
    image depends on, so that it does not change with the other files; ``positions`` maps an index to the position
    among the names. ``single`` is True if ``path`` is one file.

    Raises ``FileNotFoundError`` if there is no image.
    """

    def __init__(self, path: str | Path, crop: Crop | None = None, channels: int = 3) -> None:
        path = Path(path).expanduser()
        if not path.exists():
            raise FileNotFoundError(f"no folder or image file {path.absolute()} (data.init_args.path)")
        self.single = path.is_file()
        self.root = path.parent if self.single else path
        self.crop, self.channels = crop or Crop(), channels
        self.names = [path.name] if self.single else sorted(list_image_files(path))
        if not self.names:
            raise FileNotFoundError(f"no image in {path.absolute()}; images are {', '.join(sorted(SUFFIXES))} files")
        self.indices = name_indices(self.names)
        self.positions = {index: position for position, index in enumerate(self.indices)}

    def __len__(self) -> int:
        return len(self.names)

    def read(self, position: int) -> Tensor:
        """Pixels (C,H,W) in [0,1]. Raises ``UnreadableImageError``."""
        return self.crop(decode_image(self.root / self.names[position], self.channels))

    def by_size(self) -> dict[tuple[int, int], list[int]]:
        """Positions by (height, width) from the files' headers; files without a readable header are left out."""
        sizes: dict[tuple[int, int], list[int]] = defaultdict(list)
        for position, name in enumerate(self.names):
            with suppress(UnreadableImageError):
                sizes[self.crop.sides or image_size(self.root / name)].append(position)
        return sizes


class UnlabelledBatches(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Batches of one image size: item i is (image (B,C,H,W), label (B,) of -1, index (B,)), B <= ``batch_size``.

    Unreadable images are left out of their batch, which may then be empty. Images of one size that fill less than a
    batch per process are spread over ``world`` processes.
    """

    def __init__(self, images: UnlabelledImages, batch_size: int, world: int = 1) -> None:
        self.images = images
        self.batches: list[list[int]] = []
        for _, positions in sorted(images.by_size().items()):
            rows = min(batch_size, -(-len(positions) // world))
            self.batches += [positions[start : start + rows] for start in range(0, len(positions), rows)]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, batch: int) -> tuple[Tensor, Tensor, Tensor]:
        images, indices = [], []
        for position in self.batches[batch]:
            with suppress(UnreadableImageError):  # the writer of the results reports the gap and its reason
                images.append(self.images.read(position))
                indices.append(self.images.indices[position])
        image = torch.stack(images) if images else torch.zeros(0, self.images.channels, 1, 1)
        index = torch.tensor(indices, dtype=torch.int64)
        return image, torch.full_like(index, NO_LABEL), index


def name_indices(names: Sequence[str]) -> list[int]:
    """Distinct indices in 0 .. 2^32 - 1: the first four bytes of the sha256 of each name.

    A name whose number is taken by an earlier one gets the next free number, so that another file changes the index of
    an image only if their hashes collide (probability 2^-32 per pair).
    """
    name_of: dict[int, str] = {}
    for name in names:
        index = int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:4], "big")
        while index in name_of:
            index = (index + 1) % 2**32
        name_of[index] = name
    return list(name_of)


def read_class_names(path: str | Path, argument: str = "class_file") -> list[str]:
    """Names of the classes 0, 1, … from a file with one name per line; ``argument`` names it in errors.

    Raises ``FileNotFoundError``, and ``ValueError`` for an empty line.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise MissingFileError(
            f"{argument}: no file of class names {path}; it holds one name per line, that of class 0 first"
        )
    names = [line.strip() for line in path.read_text(encoding="utf-8-sig", errors="replace").rstrip().split("\n")]
    if "" in names:
        raise ValueError(f"{path} must hold one class name per line; line {names.index('') + 1} is empty")
    return names
