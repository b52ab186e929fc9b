"""CIFAR-10, CIFAR-100 and SVHN, and every other data module of images by one import.

torchvision reads, and on request fetches and verifies, the publishers' files; the images stay in memory as bytes.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchvision.datasets
from torch import Tensor

from common.data.celebahq import CelebAHQ
from common.data.folders import Folder, ImageNet
from common.data.image_files import Crop
from common.data.module import ImageData, ImageDataset

__all__ = ["CIFAR10", "CIFAR100", "SVHN", "CelebAHQ", "Folder", "ImageFiles", "ImageNet"]

VAL_IMAGES = 5000

CIFAR100_CLASSES = (
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle "
    "caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant "
    "flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man "
    "maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree "
    "plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper "
    "snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train "
    "trout tulip turtle wardrobe whale willow_tree wolf woman worm"
)


class ImageFiles(ImageData):
    """Pictures without labels, for ``predict``: a folder with its sub-folders, or one file.

    Any other data module predicts them too when it is given a ``path``; this one needs no data set, and has a say in
    the resizing.

    Parameters
    ----------
    path:
        the folder or file.
    size, crop_pct, interpolation, timm_model:
        resize and centre crop, or a timm model whose own evaluation transform takes their place (see ``Crop``); with
        neither size nor model each picture stays as large as it is.
    channels:
        3, or 1 for networks that take grey images.
    loading:
        the other arguments of ``ImageData``.
    """

    def __init__(
        self,
        path: str | Path,
        size: int | None = None,
        crop_pct: float = 1.0,
        interpolation: str = "bicubic",
        timm_model: str | None = None,
        channels: int = 3,
        **loading: Any,
    ) -> None:
        super().__init__(path=path, size=size, **loading)
        self.crop, self.channels = Crop(size, crop_pct, interpolation, timm_model), channels
        if channels not in (1, 3):
            raise ValueError(f"channels must be 3 or 1; got {channels}")

    def load(self, stage: str | None = None) -> None:
        raise ValueError("pictures without labels can be predicted, not tested or trained on: use Folder for that")


class Published(ImageData):
    """A data set that torchvision knows; the last 5,000 training images are held out for validation.

    Parameters
    ----------
    root:
        the folder that holds the publishers' files, as torchvision lays them out.
    download:
        fetch them if they are not there, else nothing is ever downloaded.
    hold_out_validation:
        False trains on all training images; validation then sees images that were trained on.
    loading:
        the arguments of ``ImageData``.

    Raises ``FileNotFoundError`` in ``setup`` if the files are missing or not the published ones.
    """

    shape = (3, 32, 32)
    title: str
    holds: str

    def __init__(
        self,
        root: str | Path = "data",
        download: bool = False,
        hold_out_validation: bool = True,
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        self.root, self.download = Path(root).expanduser(), download
        self.hold_out_validation = hold_out_validation

    def open(self, train: bool, download: bool) -> tuple[Tensor, Tensor]:
        """uint8 images (N,3,32,32) and labels (N,) of the training or the test split."""
        raise NotImplementedError

    def prepare_data(self) -> None:
        if self.download and self.path is None:
            for train in (True, False):
                self.open(train, download=True)

    def load(self, stage: str | None = None) -> None:
        if stage in (None, "fit", "validate"):
            images, labels = self._read(train=True)
            last = len(images) - min(VAL_IMAGES, len(images) // 2)
            self.val = ImageDataset(images[last:], labels[last:])
            kept = last if self.hold_out_validation else len(images)
            self.train = ImageDataset(images[:kept], labels[:kept])
        if stage != "fit":
            self.held_out = ImageDataset(*self._read(train=False))

    def _read(self, train: bool) -> tuple[Tensor, Tensor]:
        try:
            return self.open(train, download=False)
        except RuntimeError as error:  # torchvision: missing, or another checksum
            raise FileNotFoundError(
                f"{self.title} must be in {self.root.absolute()} as {self.holds}, unchanged, and is not. Name the "
                "folder that holds it (data.init_args.root), or let it be fetched (data.init_args.download: true)."
            ) from error


class _CIFAR(Published):
    source: Callable[..., Any]

    def open(self, train: bool, download: bool) -> tuple[Tensor, Tensor]:
        data = type(self).source(self.root, train=train, download=download)
        return torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(data.targets)


class CIFAR10(_CIFAR):
    """CIFAR-10 (Krizhevsky, 2009): 50,000 and 10,000 32x32 pixels, ten classes; arguments as for `Published`."""

    num_classes = 10
    classes = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    title, holds = "CIFAR-10", "cifar-10-batches-py/"
    source = torchvision.datasets.CIFAR10


class CIFAR100(_CIFAR):
    """CIFAR-100 (Krizhevsky, 2009): as many images in a hundred (fine) classes; arguments as for `Published`."""

    num_classes = 100
    classes = tuple(CIFAR100_CLASSES.split())
    title, holds = "CIFAR-100", "cifar-100-python/"
    source = torchvision.datasets.CIFAR100


class SVHN(Published):
    """Street View House Numbers (Netzer et al., 2011): 73,257 and 26,032 digits; arguments as for `Published`."""

    num_classes = 10
    classes = tuple("0123456789")
    title, holds = "SVHN", "train_32x32.mat and test_32x32.mat"

    def open(self, train: bool, download: bool) -> tuple[Tensor, Tensor]:
        split = "train" if train else "test"
        data = torchvision.datasets.SVHN(str(self.root), split=split, download=download)
        return torch.from_numpy(data.data).contiguous(), torch.from_numpy(data.labels)
