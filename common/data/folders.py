"""Labelled pictures in folders, one sub-folder per class: ImageNet and the like.

Nothing is decoded before it is asked for; ``workers`` processes decode ahead.
"""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from common.data.image_files import Crop, UnreadableError, decode, list_pictures, measure
from common.data.module import Example, ImageData

HELD_OUT = 10  # of so many training pictures one is for validation, if there is no folder for that
SAMPLED = 64  # files whose sizes take part in a set's identity
SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}  # in any case, no names of classes


class BadPictureError(ValueError):
    """A picture that a data set cannot use. From a worker process comes the reason alone, without a traceback."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason.split(f"{type(self).__name__}: ")[-1].strip())


class PictureDataset(Dataset[Example]):
    """Picture files with labels. ``names`` are relative to ``root``; the index is the position.

    Reading raises ``BadPictureError`` for a damaged file and for one of another size than the first.
    """

    def __init__(self, root: Path, names: Sequence[str], labels: Sequence[int], crop: Crop) -> None:
        self.root, self.names, self.crop = root, names, crop
        self.labels = torch.tensor(labels, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def sides(self) -> tuple[int, int]:
        """(H,W) of every picture: those of the crop or, without resizing, of the first picture."""
        return self.crop.sides or measure(self.root / self.names[0])

    def __getitem__(self, index: int) -> Example:
        path = self.root / self.names[index]
        try:
            image = self.crop(decode(path))
        except UnreadableError as error:
            reason = f"{path} is damaged: {error}. A data set must be whole: replace this file."
            raise BadPictureError(reason) from error
        if image.shape[1:] != self.sides:
            found, first = (f"{height}x{width}" for height, width in (image.shape[1:], self.sides))
            raise BadPictureError(f"{path} has {found} pixels, the first picture {first}: data.init_args.size resizes")
        return image, int(self.labels[index]), index

    def split(self, every: int) -> tuple["PictureDataset", "PictureDataset"]:
        """All others, and every ``every``-th, each with indices of its own."""
        held = range(every - 1, len(self), every)
        rest = [index for index in range(len(self)) if index % every != every - 1]
        return self._chosen(rest), self._chosen(held)

    def _chosen(self, indices: Sequence[int]) -> "PictureDataset":
        return PictureDataset(
            self.root, [self.names[i] for i in indices], [int(self.labels[i]) for i in indices], self.crop
        )

    def identity(self) -> dict[str, Any]:
        """How many pictures there are, and a hash over names, labels and some files' sizes: not where they lie."""
        rows = zip(self.names, self.labels.tolist(), strict=True)
        digest = hashlib.sha256("\n".join(f"{name} {label}" for name, label in rows).encode())
        for name in self.names[:: max(1, len(self) // SAMPLED)]:
            digest.update(f" {(self.root / name).stat().st_size}".encode())
        return {"images": len(self), "sha256": digest.hexdigest()}


class PictureData(ImageData):
    """Data modules of picture files: ``root``, and a crop for all of them, those of ``path`` included."""

    def __init__(self, root: str | Path, crop: Crop, **loading: Any) -> None:
        super().__init__(**loading)
        self.root, self.crop = Path(root).expanduser(), crop
        if crop.sides is not None:
            self.shape = (3, *crop.sides)

    def identity(self) -> dict[str, Any]:
        """As ``ImageData`` has it, with the pictures themselves in place of their folder's name."""
        held_out = self.held_out
        pictures = held_out.identity() if isinstance(held_out, PictureDataset) else {}
        return super().identity() | {"crop": self.crop.config} | pictures


class Folder(PictureData):
    """Pictures in ``root/{train,val,test}/CLASS/…`` or, for a test alone, in ``root/CLASS/…``.

    Classes are numbered in alphabetical order of their folders, those of ``train`` where it exists, and indices follow
    the alphabetical order of the files: torchvision's ``ImageFolder``. Tested is ``test`` or, without it, ``val``;
    validated is ``val`` or, without it, every tenth picture of ``train``, which is then not trained on.

    Parameters
    ----------
    root:
        the folder.
    size, crop_pct, interpolation, timm_model:
        resize and centre crop, or a timm model whose own evaluation transform takes their place (see ``Crop``); with
        neither size nor model all pictures must be of one size.
    loading:
        the other arguments of ``ImageData``.

    Raises ``FileNotFoundError`` or ``ValueError`` in ``setup``, saying what was looked for.
    """

    def __init__(
        self,
        root: str | Path,
        size: int | None = None,
        crop_pct: float = 1.0,
        interpolation: str = "bicubic",
        timm_model: str | None = None,
        **loading: Any,
    ) -> None:
        super().__init__(root, Crop(size, crop_pct, interpolation, timm_model), size=size, **loading)

    def load(self, stage: str | None = None) -> None:
        if not self.root.is_dir():
            raise FileNotFoundError(f"no folder {self.root.absolute()} (data.init_args.root); {self._layout()}")
        folders = _folders(self.root)
        parts = [name for name in ("train", "val", "test") if name in folders]
        tested = self.root / ("test" if "test" in parts else "val") if {"val", "test"} & {*parts} else self.root
        if "train" in parts and tested == self.root:
            raise FileNotFoundError(f"neither test nor val in {self.root.absolute()}; {self._layout()}")
        names = _folders(self.root / "train" if "train" in parts else tested)
        if len(names) == 1 or (not parts and {name.lower() for name in names} & SPLITS):
            raise FileNotFoundError(
                f"no classes but {', '.join(names[:3])} in {self.root.absolute()}; {self._layout()}"
            )
        self.folders, self.num_classes = names, len(names)
        self.classes = self.classes or names
        if stage != "fit":
            self.held_out = self._listed(tested)
        if stage in (None, "fit", "validate") and "train" in parts:
            self.train = self._listed(self.root / "train")
            if "val" in parts:
                self.val = self._listed(self.root / "val")
            else:
                self.train, self.val = self.train.split(HELD_OUT)
        elif stage in ("fit", "validate"):
            raise FileNotFoundError(f"nothing to train on in {self.root.absolute()}; {self._layout()}")
        image, _, _ = (self.train if stage == "fit" else self.held_out)[0]
        self.shape = (3, *image.shape[1:])

    def _listed(self, place: Path) -> PictureDataset:
        folders = _folders(place)
        if strange := [name for name in folders if name not in self.folders]:
            raise ValueError(f"{place} has classes that {self.root / 'train'} has not: {strange[:3]}")
        if not folders:
            raise FileNotFoundError(f"no class folders in {place.absolute()}; {self._layout()}")
        names, labels = [], []
        for folder in folders:
            found = list_pictures(place / folder)
            names += [f"{folder}/{name}" for name in found]
            labels += [self.folders.index(folder)] * len(found)
        if not names:
            raise FileNotFoundError(f"no pictures in the folders of {place.absolute()}; {self._layout()}")
        return PictureDataset(place, names, labels, self.crop)

    def _layout(self) -> str:
        return "it must hold train/CLASS/…, val/CLASS/… and test/CLASS/…, or for a test alone CLASS/…, with pictures"


class ImageNet(Folder):
    """ImageNet-1k (ILSVRC 2012) in ``root/{train,val}/WNID/*.JPEG``; its 50,000 validation images are the test.

    As in the papers, the shorter side is resized to 256 and the central 224 are kept (size 224, crop_pct 0.875);
    ``timm_model: deit_small_patch16_224`` does what that classifier asks for. The arguments are those of ``Folder``.
    """

    num_classes = 1000

    def __init__(
        self,
        root: str | Path,
        size: int | None = 224,
        crop_pct: float = 0.875,
        interpolation: str = "bilinear",
        timm_model: str | None = None,
        **loading: Any,
    ) -> None:
        super().__init__(root, size, crop_pct, interpolation, timm_model, **loading)

    def load(self, stage: str | None = None) -> None:
        super().load(stage)
        if self.num_classes != 1000:
            raise ValueError(
                f"ImageNet has 1,000 classes; {self.root.absolute()} has {self.num_classes}. For a part of it, whose "
                "labels are others, use Folder."
            )

    def _layout(self) -> str:
        return "ImageNet must lie there as val/n01440764/….JPEG and, for training, train/n01440764/….JPEG"


def _folders(place: Path) -> list[str]:
    return sorted(entry.name for entry in place.iterdir() if entry.is_dir() and not entry.name.startswith("."))
