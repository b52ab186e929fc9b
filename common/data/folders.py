"""Labelled images in folders, one sub-folder per class: ImageNet and others in torchvision's layout."""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

from lightning.pytorch.utilities import rank_zero_warn

from common.checks.settings import check_part, check_path, check_sequence
from common.data.crop import CROP_ARGUMENTS, Crop
from common.data.datasets import ImageFileDataset
from common.data.decoding import list_image_files
from common.data.image_data import ImageData
from common.data.unlabelled import read_class_names

VALIDATION_EVERY = 10  # every tenth training image validates where there is no folder val
SPLIT_NAMES = {"train", "training", "val", "valid", "validation", "test", "testing"}  # lower case; not classes


class ImageFileData(ImageData):
    """Base of data modules of image files: ``root``, and one crop for all images, those of ``path`` included."""

    not_identifying: ClassVar[frozenset[str]] = ImageData.not_identifying | {"root", "classes", *CROP_ARGUMENTS}

    def __init__(self, root: str | Path, crop: Crop, **loading: Any) -> None:
        super().__init__(**loading)
        self.root, self.crop = check_path("root", root), check_part("crop", crop, Crop)
        if crop.sides is not None:
            self.shape = (3, *crop.sides)

    def identity(self) -> dict[str, Any]:
        """As in `ImageData`, with crop, number and hash of the images tested on in place of their folder."""
        images = self.held_out if self.test_on == "test" else self.val
        files = images.identity() if isinstance(images, ImageFileDataset) else {}
        return super().identity() | {"crop": self.crop.config} | files


class Folder(ImageFileData):
    """Images in ``root/{train,val,test}/CLASS/…`` or, for a test alone, in ``root/CLASS/…``.

    Classes are numbered in alphabetical order of their folders, those of ``train`` where it exists, and indices follow
    the order of torchvision's ``ImageFolder``. The test takes ``test`` or, without it, ``val``; validation takes
    ``val`` or, without it, every tenth image of ``train``, which is then not trained on.

    Parameters
    ----------
    root:
        the folder.
    size, crop_pct, interpolation, timm_model:
        resize and centre crop, or a timm model whose own evaluation transform replaces these (see `Crop`); without size
        and model all images must be of one size.
    classes:
        names of the class folders in the order of the labels, a list or a file with one per line. Without it they are
        those that exist, so a missing folder shifts the labels of all later ones, and a test refuses a classifier of
        another number of classes.
    loading:
        further arguments of `ImageData`.

    Raises ``FileNotFoundError`` or ``ValueError`` in ``setup`` for a missing or unexpected folder, and warns if folders
    are named by numbers whose order as text is another one ("10" before "2").
    """

    def __init__(
        self,
        root: str | Path,
        size: int | None = None,
        crop_pct: float = 1.0,
        interpolation: str = "bicubic",
        timm_model: str | None = None,
        classes: Sequence[str | int] | str | Path | None = None,
        **loading: Any,
    ) -> None:
        super().__init__(root, Crop(size, crop_pct, interpolation, timm_model), size=size, **loading)
        self._listed = None if classes is None else _class_list(classes)

    def identity(self) -> dict[str, Any]:
        """As in `ImageFileData`, with the list of classes if there is one."""
        return super().identity() | ({} if self._listed is None else {"classes": self._listed})

    def load(self, stage: str | None = None) -> None:
        test, splits = self._find_splits()
        if stage != "fit":
            self.held_out = self._dataset(test)
        if stage in (None, "fit", "validate") and "train" in splits:
            self.train = self._dataset(self.root / "train")
            if "val" in splits:
                self.val = self._dataset(self.root / "val")
            else:
                self.train, self.val = self.train.split(VALIDATION_EVERY)
        elif stage in ("fit", "validate"):
            raise FileNotFoundError(f"no training images in {self.root.absolute()}; {self._layout()}")
        image, _, _ = (self.train if stage == "fit" else self.held_out)[0]
        self.shape = (3, *image.shape[1:])

    def _find_splits(self) -> tuple[Path, list[str]]:
        """The folder of the test images and the splits there are; sets the classes."""
        if not self.root.is_dir():
            raise FileNotFoundError(f"no folder {self.root.absolute()} (data.init_args.root); {self._layout()}")
        splits: list[str] = [name for name in ("train", "val", "test") if name in _subfolders(self.root)]
        test = self.root / ("test" if "test" in splits else "val") if {"val", "test"} & {*splits} else self.root
        if "train" in splits and test == self.root:
            raise FileNotFoundError(f"neither test nor val in {self.root.absolute()}; {self._layout()}")
        folder = self.root / "train" if "train" in splits else test
        classes = _subfolders(folder)
        if self._listed is not None:
            self._set_classes(folder, classes, self._listed)
            return test, splits
        if len(classes) == 1 or (not splits and {name.lower() for name in classes} & SPLIT_NAMES):
            only = ", ".join(classes[:3])
            raise FileNotFoundError(f"no classes but {only} in {self.root.absolute()}; {self._layout()}")
        warn_of_numbers(classes, f"{folder} sorts", "data.init_args.classes, a list or a file with one folder per line")
        self._set_classes(folder, classes, classes)
        return test, splits

    def _set_classes(self, folder: Path, found: list[str], listed: list[str]) -> None:
        """Number the classes as ``listed``. Raises ``ValueError`` for other folders."""
        if unknown := [name for name in found if name not in listed]:
            raise ValueError(f"classes must list all class folders; {folder} also has {unknown[:3]}")
        self.folders, self.num_classes = listed, len(listed)
        self.classes = self.classes or listed

    def _dataset(self, split: Path) -> ImageFileDataset:
        folders = _subfolders(split)
        if unknown := [name for name in folders if name not in self.folders]:
            raise ValueError(f"{split} has classes that {self.root / 'train'} lacks: {unknown[:3]}")
        if not folders:
            raise FileNotFoundError(f"no class folders in {split.absolute()}; {self._layout()}")
        names, labels = [], []
        for folder in folders:
            files = list_image_files(split / folder)
            names += [f"{folder}/{name}" for name in files]
            labels += [self.folders.index(folder)] * len(files)
        if not names:
            raise FileNotFoundError(f"no images in the folders of {split.absolute()}; {self._layout()}")
        return ImageFileDataset(split, names, labels, self.crop)

    def _layout(self) -> str:
        return "it must hold train/CLASS/…, val/CLASS/… and test/CLASS/…, or for a test alone CLASS/…, with images"


class ImageNet(Folder):
    """ImageNet-1k (ILSVRC 2012) in ``root/{train,val}/WNID/*.JPEG``; the test takes its 50,000 validation images.

    As in the papers, the shorter side is resized to 256 and the central 224 are kept (size 224, crop_pct 0.875);
    ``timm_model: deit_small_patch16_224`` uses that classifier's transform. Arguments as for `Folder`.
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
                f"ImageNet has 1,000 classes; {self.root.absolute()} has {self.num_classes}. Use Folder for a part of "
                "it: its labels are others."
            )

    def _layout(self) -> str:
        return "ImageNet must lie there as val/n01440764/….JPEG and, for training, train/n01440764/….JPEG"


def warn_of_numbers(names: Sequence[str], where: str, remedy: str) -> None:
    """Warn if the classes are numbers whose order is not that of their names as text."""
    if all(name.isdecimal() for name in names) and list(names) != sorted(names, key=int):
        first = next(later for name, later in pairwise(names) if int(later) < int(name))
        rank_zero_warn(
            f"{where} the classes as text: {', '.join(names[:4])}, … ({first} has label {list(names).index(first)}). "
            f"If they are the classifier's class numbers, give their order by {remedy}"
        )


def _class_list(classes: Sequence[str | int] | str | Path) -> list[str]:
    """Names of class folders, each once."""
    given = read_class_names(check_path("classes", classes), "classes") if isinstance(classes, str | Path) else classes
    names = [str(name) for name in check_sequence("classes", given, partial(check_part, kind=str | int), 2)]
    if again := [name for name, times in Counter(names).items() if times > 1]:
        raise ValueError(f"classes must name each folder once; got {again[:3]} more than once")
    return names


def _subfolders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
