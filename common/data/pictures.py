"""Picture files -> pixels: any format, colour mode and depth, as 8 bits per channel; resized and cropped if wanted."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as V

SUFFIXES = {*".png .jpg .jpeg .jpe .webp .bmp .gif .tif .tiff .ppm .pgm .pbm".split()}  # noqa: SIM905
"""Files that count as pictures."""

MODES = {1: "L", 3: "RGB"}
TRANSPARENT = ("RGBA", "RGBa", "LA", "La", "PA")
TURNED = ("JPEG", "MPO", "WEBP")  # formats whose orientation tag is read: cameras write these
ORIENTATION, SIDEWAYS = 0x0112, (5, 6, 7, 8)
WHITE_16 = 2**16 - 1


class UnreadableError(ValueError):
    """A file that is no picture, that is cut short, or whose values have no stated range."""


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise UnreadableError(str(error).split("\n")[0] or type(error).__name__) from error


def decode(path: Path, channels: int = 3) -> Image.Image:
    """The picture in a file as mode RGB (3 channels) or L (1), upright, transparent parts on white.

    Of an animation the first frame; 16-bit grey is rounded to 8. Raises ``UnreadableError``.
    """
    if channels not in MODES:
        raise ValueError(f"pictures have 3 channels or 1; got {channels}")
    with _reading(), Image.open(path) as file:
        file.load()
        picture: Image.Image = ImageOps.exif_transpose(file) if file.format in TURNED else file
        return _flat(picture).convert(MODES[channels])


def _flat(picture: Image.Image) -> Image.Image:
    """Eight bits per channel, opaque."""
    if picture.mode == "F":
        raise ValueError("floating-point pictures do not say which value is white")
    if picture.mode.startswith("I"):
        grey = np.asarray(picture).astype(np.int64)
        if not 0 <= int(grey.min()) <= int(grey.max()) <= WHITE_16:
            raise ValueError(f"grey values must be in 0 .. {WHITE_16}; got {grey.min()} .. {grey.max()}")
        return Image.fromarray((grey * 255 / WHITE_16).round().astype(np.uint8))
    if picture.mode in TRANSPARENT or "transparency" in picture.info:
        colours = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours)
    return picture


def measure(path: Path) -> tuple[int, int]:
    """(height, width) of the decoded picture, from its header alone. Raises ``UnreadableError``."""
    with _reading(), Image.open(path) as file:
        width, height = file.size
        if file.format in TURNED and file.getexif().get(ORIENTATION) in SIDEWAYS:
            return width, height
        return height, width


@dataclass(frozen=True)
class Crop:
    """Resize the shorter side to ``size / crop_pct`` and cut the central square of side ``size``; None: as it is.

    The three values are those of a timm data config (``input_size``, ``crop_pct``, ``interpolation``); resampling is
    Pillow's, with antialiasing, as in the evaluation of timm's and torchvision's weights. Calling it gives pixels
    (C,H,W), float32 in [0,1]; normalisation belongs to the classifier.
    """

    size: int | None = None
    crop_pct: float = 1.0
    interpolation: str = "bicubic"

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise ValueError(f"size must be at least 1 pixel, or null for no resizing; got {self.size}")
        if not 0 < self.crop_pct <= 1:
            raise ValueError(f"crop_pct, the share of the shorter side that is kept, is in (0, 1]; got {self.crop_pct}")
        names = [mode.value for mode in InterpolationMode]
        if self.interpolation not in names:
            raise ValueError(f"interpolation must be one of {', '.join(names)}; got {self.interpolation!r}")

    def __call__(self, picture: Image.Image) -> Tensor:
        if self.size is not None:
            side = math.floor(self.size / self.crop_pct)
            if min(picture.size) != side:
                picture = V.resize(picture, [side], InterpolationMode(self.interpolation))
            picture = V.center_crop(picture, [self.size, self.size])
        levels: Tensor = V.pil_to_tensor(picture)
        return levels.to(torch.float32) / 255
