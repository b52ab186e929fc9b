"""CelebA-HQ: faces labelled by one of CelebA's forty attributes."""

from pathlib import Path
from typing import Any

from common.checks.settings import check_optional, check_text
from common.data.crop import Crop
from common.data.datasets import ImageFileDataset
from common.data.decoding import list_image_files
from common.data.folders import ImageFileData

SPLITS = {"train": 0, "val": 1, "held_out": 2}  # CelebA's numbers


class CelebAHQ(ImageFileData):
    """CelebA-HQ with one attribute as label: 1 where it is present, 0 where it is not.

    The attribute file has CelebA's format: a line with the number of images, a line with the names of the attributes,
    then one line per image with its file name and 1 or -1 per attribute. CelebAMask-HQ works as published.

    Parameters
    ----------
    root:
        the folder.
    attribute:
        e.g. "Smiling" or "Eyeglasses", those of DiffPure (arXiv 2205.07460).
    images, attributes:
        folder of the images and attribute file, in ``root``.
    partition:
        file in ``root`` with an image's name and 0 (train), 1 (val) or 2 (test) per line; without it all images are
        test images.
    size, timm_model:
        bilinear resize and centre crop, or a timm model whose own evaluation transform is used, see `Crop`.
    loading:
        further arguments of `ImageData`.

    Raises ``FileNotFoundError`` or ``ValueError`` in ``setup`` for a missing or malformed file.
    """

    num_classes = 2

    def __init__(
        self,
        root: str | Path,
        attribute: str = "Smiling",
        images: str = "CelebA-HQ-img",
        attributes: str = "CelebAMask-HQ-attribute-anno.txt",
        partition: str | None = None,
        size: int | None = 256,
        timm_model: str | None = None,
        **loading: Any,
    ) -> None:
        super().__init__(root, Crop(size, 1.0, "bilinear", timm_model), size=size, **loading)
        self.attribute, self.images = check_text("attribute", attribute), check_text("images", images)
        self.attributes, self.partition = (
            check_text("attributes", attributes),
            check_optional(check_text, "partition", partition),
        )
        self.classes = self.classes or (f"not {attribute}", attribute)

    def load(self, stage: str | None = None) -> None:
        labels = self._labels()
        names = sorted(labels, key=lambda name: (len(name), name))  # 2.jpg before 10.jpg
        split_of = self._partition() if self.partition else dict.fromkeys(names, SPLITS["held_out"])
        needed = {"fit": ("train", "val"), "validate": ("val",)}.get(stage or "", ("held_out",))
        for split, number in SPLITS.items():
            chosen = [name for name in names if split_of.get(name) == number]
            files = ImageFileDataset(self.root / self.images, chosen, [labels[name] for name in chosen], self.crop)
            setattr(self, split, files)
            if split in needed and not chosen:
                raise ValueError(
                    f"CelebA-HQ must have images in part {number} for this command; it has none. Give a partition "
                    "(data.init_args.partition), a file with a name and 0, 1 or 2 per line, that has some; got "
                    f"{self.partition!r}"
                )

    def _labels(self) -> dict[str, int]:
        """Labels by file name, for the images that exist."""
        rows = [line.split() for line in self._lines(self.attributes)][1:]
        if not rows or self.attribute not in rows[0]:
            known = ", ".join(rows[0]) if rows else "none"
            raise ValueError(f"attribute must be one of {known}; got {self.attribute!r}")
        column = rows[0].index(self.attribute) + 1
        folder = self.root / self.images
        existing = set(list_image_files(folder)) if folder.is_dir() else set()
        listed = [row for row in rows[1:] if row and row[0] in existing]
        if ragged := [row[0] for row in listed if len(row) != len(rows[0]) + 1]:
            raise ValueError(f"{self.attributes} must give 1 or -1 per attribute; it does not for {ragged[0]}")
        labels = {row[0]: int(row[column] == "1") for row in listed}
        if not labels:
            raise FileNotFoundError(f"none of the images that {self.attributes} lists is in {folder.absolute()}")
        return labels

    def _partition(self) -> dict[str, int]:
        rows = [line.split() for line in self._lines(str(self.partition))]
        if wrong := [" ".join(row) for row in rows if row and row[1:] not in (["0"], ["1"], ["2"])]:
            raise ValueError(f"{self.partition} must hold a name and 0, 1 or 2 per line; got {wrong[0]!r}")
        return {row[0]: int(row[1]) for row in rows if row}

    def _lines(self, name: str) -> list[str]:
        path = self.root / name
        if not path.is_file():
            raise FileNotFoundError(
                f"no file {path.absolute()}; CelebA-HQ needs it, and its images in {self.images}/, under "
                "data.init_args.root (CelebAMask-HQ holds both)"
            )
        return path.read_text().splitlines()
