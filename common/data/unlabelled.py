"""Pictures to predict: those under a path, in batches of one size, whatever formats and sizes lie there together."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.data.image_files import SUFFIXES, Crop, UnreadableError, decode, list_pictures, measure

UNKNOWN = -1
"""The label of a picture that has none."""


class Pictures:
    """The pictures under ``path``, a folder with its sub-folders or one file, in alphabetical order.

    ``names`` are relative to ``root``; ``indices`` are numbers made of them, see `index_names`, on which a picture's
    noise depends, whatever lies beside it; ``positions`` leads from an index back to a place among the names. Hidden
    files and those without a picture's suffix are not looked at. ``single`` says whether ``path`` is one file.

    Raises ``FileNotFoundError`` if there is no picture.
    """

    def __init__(self, path: str | Path, crop: Crop | None = None, channels: int = 3) -> None:
        path = Path(path).expanduser()
        if not path.exists():
            raise FileNotFoundError(f"no folder or picture {path.absolute()} (data.init_args.path)")
        self.single = path.is_file()
        self.root = path.parent if self.single else path
        self.crop, self.channels = crop or Crop(), channels
        self.names = [path.name] if self.single else sorted(list_pictures(path))
        if not self.names:
            raise FileNotFoundError(
                f"no picture in {path.absolute()}; pictures are {', '.join(sorted(SUFFIXES))} files"
            )
        self.indices = index_names(self.names)
        self.positions = {index: position for position, index in enumerate(self.indices)}

    def __len__(self) -> int:
        return len(self.names)

    def read(self, position: int) -> Tensor:
        """Pixels (C,H,W) in [0,1]. Raises ``UnreadableError``."""
        return self.crop(decode(self.root / self.names[position], self.channels))

    def by_size(self) -> dict[tuple[int, int], list[int]]:
        """Positions by (height, width), from the files' headers; those without a good one are left out."""
        sizes: dict[tuple[int, int], list[int]] = defaultdict(list)
        for position, name in enumerate(self.names):
            with suppress(UnreadableError):
                sizes[self.crop.sides or measure(self.root / name)].append(position)
        return sizes


class PictureBatches(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Whole batches: ``[i]`` is (image (B,C,H,W), label (B,) of -1, index (B,)), B at most ``batch_size``.

    Pictures that cannot be read are left out of their batch, which may be empty then. A few pictures are spread over
    ``world`` processes rather than put into one batch.
    """

    def __init__(self, pictures: Pictures, batch_size: int, world: int = 1) -> None:
        self.pictures = pictures
        self.batches: list[list[int]] = []
        for _, positions in sorted(pictures.by_size().items()):
            rows = min(batch_size, -(-len(positions) // world))
            self.batches += [positions[start : start + rows] for start in range(0, len(positions), rows)]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, batch: int) -> tuple[Tensor, Tensor, Tensor]:
        images, read = [], []
        for position in self.batches[batch]:
            with suppress(UnreadableError):  # whoever writes the results finds the gap, and asks again why
                images.append(self.pictures.read(position))
                read.append(self.pictures.indices[position])
        nothing = torch.zeros(0, self.pictures.channels, 1, 1)
        image = torch.stack(images) if images else nothing
        index = torch.tensor(read, dtype=torch.int64)
        return image, torch.full_like(index, UNKNOWN), index


def index_names(names: Sequence[str]) -> list[int]:
    """Distinct indices in 0 .. 2^32 - 1: the first four bytes of the sha256 of each name.

    If a number is taken by an earlier name, the next free one is used, so that another file changes a picture's index
    only if their numbers are the same, once in four thousand million.
    """
    taken: dict[int, str] = {}
    for name in names:
        index = int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:4], "big")
        while index in taken:
            index = (index + 1) % 2**32
        taken[index] = name
    return list(taken)


def class_names(path: str | Path) -> list[str]:
    """The names of classes 0, 1, … from a file with one in each line."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no file of class names {path}; it holds one name per line, that of class 0 first")
    names = [line.strip() for line in path.read_text(encoding="utf-8-sig", errors="replace").rstrip().split("\n")]
    if "" in names:
        raise ValueError(f"{path} must hold a class's name in each line; line {names.index('') + 1} is empty")
    return names
