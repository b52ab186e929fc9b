"""CelebA-HQ: faces, with one of CelebA's forty attributes as the label."""

from pathlib import Path
from typing import Any

from common.data.folders import PictureData, PictureDataset
from common.data.image_files import Crop, list_pictures

TEST = 2  # CelebA's number of that part


class CelebAHQ(PictureData):
    """CelebA-HQ with one attribute as label: 1 where it is there, 0 where it is not.

    The list of attributes is CelebA's (a line with the number of images, a line with the attributes' names, then a
    file name and 1 or -1 for each attribute in a line); with it CelebAMask-HQ comes as it is.

    Parameters
    ----------
    root:
        the folder.
    attribute:
        e.g. "Smiling" or "Eyeglasses", DiffPure's (arXiv 2205.07460).
    images, attributes:
        folder of the pictures and file of the attributes, in ``root``.
    partition:
        file in ``root`` with a picture's name and 0 (train), 1 (val) or 2 (test) in each line; without it all pictures
        are tested, and none trained on.
    size, timm_model:
        resize bilinearly and cut the centre, or a timm model whose own evaluation transform is used, see ``Crop``.
    loading:
        the other arguments of ``ImageData``.

    Raises ``FileNotFoundError`` or ``ValueError`` in ``setup``, saying what was looked for.
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
        self.attribute, self.images, self.attributes, self.partition = attribute, images, attributes, partition
        self.classes = self.classes or (f"not {attribute}", attribute)

    def load(self, stage: str | None = None) -> None:
        labels = self._labels()
        names = sorted(labels, key=lambda name: (len(name), name))  # 2.jpg before 10.jpg
        part = self._parts() if self.partition else dict.fromkeys(names, TEST)
        for attribute, number in (("train", 0), ("val", 1), ("held_out", TEST)):
            chosen = [name for name in names if part.get(name) == number]
            files = PictureDataset(self.root / self.images, chosen, [labels[name] for name in chosen], self.crop)
            setattr(self, attribute, files)
            needed = {"fit": number < TEST, "validate": number == 1}.get(stage or "", number == TEST)
            if needed and not chosen:
                raise ValueError(
                    f"no picture of CelebA-HQ is in part {number}, which this command needs. Give a partition, a file "
                    f"with a name and 0, 1 or 2 in each line, that has some (data.init_args.partition); got "
                    f"{self.partition!r}"
                )

    def _labels(self) -> dict[str, int]:
        """File name -> label, of the pictures that are there."""
        rows = [line.split() for line in self._lines(self.attributes)][1:]
        if not rows or self.attribute not in rows[0]:
            known = ", ".join(rows[0]) if rows else "none"
            raise ValueError(f"attribute must be one of {known}; got {self.attribute!r}")
        column = rows[0].index(self.attribute) + 1
        folder = self.root / self.images
        there = set(list_pictures(folder)) if folder.is_dir() else set()
        listed = [row for row in rows[1:] if row and row[0] in there]
        if cut := [row[0] for row in listed if len(row) != len(rows[0]) + 1]:
            raise ValueError(f"{self.attributes} must give 1 or -1 for each attribute; it does not for {cut[0]}")
        labels = {row[0]: int(row[column] == "1") for row in listed}
        if not labels:
            raise FileNotFoundError(f"none of the pictures that {self.attributes} lists is in {folder.absolute()}")
        return labels

    def _parts(self) -> dict[str, int]:
        rows = [line.split() for line in self._lines(str(self.partition))]
        if wrong := [" ".join(row) for row in rows if row and row[1:] not in (["0"], ["1"], ["2"])]:
            raise ValueError(f"{self.partition} must hold a name and 0, 1 or 2 in each line; got {wrong[0]!r}")
        return {row[0]: int(row[1]) for row in rows if row}

    def _lines(self, name: str) -> list[str]:
        path = self.root / name
        if not path.is_file():
            raise FileNotFoundError(
                f"no file {path.absolute()}; CelebA-HQ needs it, and its pictures in {self.images}/, under "
                "data.init_args.root (CelebAMask-HQ comes with pictures and attributes)"
            )
        return path.read_text().splitlines()
