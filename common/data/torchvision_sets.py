"""CIFAR-10, CIFAR-100 and SVHN.

torchvision reads, and on request downloads and verifies, the publishers' files; images stay in memory as bytes.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
import torchvision.datasets
from torch import Tensor

from common.checks.settings import check_flag, check_path
from common.data.datasets import ImageDataset
from common.data.image_data import ImageData

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


class TorchvisionData(ImageData):
    """Data set of torchvision; the last 5,000 training images are held out for validation.

    Parameters
    ----------
    root:
        folder of the publishers' files, in torchvision's layout.
    download:
        download missing files; nothing is downloaded without it.
    hold_out_validation:
        False trains on all training images; validation then uses images that were trained on.
    loading:
        arguments of `ImageData`.

    Raises ``FileNotFoundError`` in ``setup`` for files that are missing or not the published ones.
    """

    not_identifying: ClassVar[frozenset[str]] = ImageData.not_identifying | {"root", "download"}
    shape = (3, 32, 32)
    title: str
    files_in_root: str

    def __init__(
        self,
        root: str | Path = "data",
        download: bool = False,
        hold_out_validation: bool = True,
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        self.root, self.download = check_path("root", root), check_flag("download", download)
        self.hold_out_validation = check_flag("hold_out_validation", hold_out_validation)

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
                f"{self.title} must be in {self.root.absolute()} as {self.files_in_root}, unchanged; it is not. Name "
                "its folder (data.init_args.root), or download it (data.init_args.download: true)."
            ) from error


class _CIFAR(TorchvisionData):
    source: Callable[..., Any]

    def open(self, train: bool, download: bool) -> tuple[Tensor, Tensor]:
        data = type(self).source(self.root, train=train, download=download)
        return torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(data.targets)


class CIFAR10(_CIFAR):
    """CIFAR-10 (Krizhevsky, 2009): 50,000 and 10,000 32x32 pixels, ten classes; arguments as for `TorchvisionData`."""

    num_classes = 10
    classes = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    title, files_in_root = "CIFAR-10", "cifar-10-batches-py/"
    source = torchvision.datasets.CIFAR10


class CIFAR100(_CIFAR):
    """CIFAR-100 (Krizhevsky, 2009): as many images in a hundred (fine) classes; arguments as for `TorchvisionData`."""

    num_classes = 100
    classes = tuple(CIFAR100_CLASSES.split())
    title, files_in_root = "CIFAR-100", "cifar-100-python/"
    source = torchvision.datasets.CIFAR100


class SVHN(TorchvisionData):
    """Street View House Numbers (Netzer et al., 2011): 73,257 and 26,032 digits; arguments as for `TorchvisionData`."""

    num_classes = 10
    classes = tuple("0123456789")
    title, files_in_root = "SVHN", "train_32x32.mat and test_32x32.mat"

    def open(self, train: bool, download: bool) -> tuple[Tensor, Tensor]:
        split = "train" if train else "test"
        data = torchvision.datasets.SVHN(str(self.root), split=split, download=download)
        return torch.from_numpy(data.data).contiguous(), torch.from_numpy(data.labels)
