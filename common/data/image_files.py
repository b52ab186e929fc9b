"""Data module of unlabelled image files, for ``predict``."""

from pathlib import Path
from typing import Any, ClassVar

from common.checks.settings import check_one_of
from common.data.crop import CROP_ARGUMENTS, Crop
from common.data.image_data import ImageData


class ImageFiles(ImageData):
    """Images without labels, for ``predict``: a folder with its sub-folders, or one file.

    Every other data module predicts such images too if its ``path`` is given; this one needs no data set, and offers
    all settings of the resizing.

    Parameters
    ----------
    path:
        the folder or file.
    size, crop_pct, interpolation, timm_model:
        resize and centre crop, or a timm model whose own evaluation transform replaces these (see `Crop`); without size
        and model each image keeps its size.
    channels:
        3, or 1 for networks of grey images.
    loading:
        further arguments of `ImageData`.
    """

    not_identifying: ClassVar[frozenset[str]] = ImageData.not_identifying | {"path", *CROP_ARGUMENTS}

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
        self.crop = Crop(size, crop_pct, interpolation, timm_model)
        self.channels = check_one_of("channels", channels, (1, 3))

    def load(self, stage: str | None = None) -> None:
        raise ValueError("images without labels can be predicted, not tested or trained on: use Folder for that")
