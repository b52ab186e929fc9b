"""Image files -> 8-bit images: any format, colour mode and depth, upright and opaque."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from common.checks.image_files import open_image

SUFFIXES = {*".png .jpg .jpeg .jpe .jfif .webp .bmp .gif .tif .tiff .ppm .pgm .pbm".split()}  # noqa: SIM905
"""Suffixes of image files, in lower case."""

MODES = {1: "L", 3: "RGB"}
TRANSPARENT = ("RGBA", "RGBa", "LA", "La", "PA")
ROTATABLE = ("JPEG", "MPO", "WEBP")  # formats that cameras write, whose orientation tag counts
ORIENTATION, SIDEWAYS = 0x0112, (5, 6, 7, 8)
WHITE_16 = 2**16 - 1


class UnreadableImageError(ValueError):
    """File that holds no image, is cut short, or stores values without a stated range."""


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except UnidentifiedImageError as error:
        raise UnreadableImageError("it is not an image, or of an unknown format") from error
    except Exception as error:  # decoders of damaged files raise nearly anything
        reason = getattr(error, "strerror", None) or str(error)  # without the path: the caller names the file
        raise UnreadableImageError(reason.split("\n")[0] or type(error).__name__) from error


def list_image_files(folder: Path) -> list[str]:
    """Image files in a folder and its sub-folders, symbolic links included, in torchvision's order.

    Names are relative to ``folder``. Hidden files are left out and each folder is read once, so a link to a parent
    folder ends. Files are listed by their suffix, whether they can be decoded or not.
    """
    names_in: dict[str, list[str]] = {}
    seen: set[str] = set()
    for place, subfolders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        subfolders[:] = [] if real in seen else sorted(name for name in subfolders if not name.startswith("."))
        if real not in seen:
            seen.add(real)
            relative = Path(place).relative_to(folder).as_posix()
            prefix = "" if relative == "." else f"{relative}/"  # one Path per folder: a set may have a million files
            names_in[place] = [f"{prefix}{name}" for name in sorted(names) if _is_image_file(name)]
    return [name for place in sorted(names_in) for name in names_in[place]]


def _is_image_file(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith(".")


def decode_image(path: Path, channels: int = 3) -> Image.Image:
    """The image in a file in mode RGB (3 channels) or L (1), upright, with white behind transparent parts.

    Animations give their first frame; 16-bit grey is rounded to 8 bits. Raises ``UnreadableImageError``.
    """
    if channels not in MODES:
        raise ValueError(f"images have 3 channels or 1; got {channels}")
    with _reading(), open_image(path) as file:
        file.load()
        upright: Image.Image = ImageOps.exif_transpose(file) if file.format in ROTATABLE else file
        return _opaque_8_bit(upright).convert(MODES[channels])


def _opaque_8_bit(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("floating-point images do not state which value is white")
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.int64)
        if not 0 <= int(grey.min()) <= int(grey.max()) <= WHITE_16:
            raise ValueError(f"grey values must be in 0 .. {WHITE_16}; got {grey.min()} .. {grey.max()}")
        return Image.fromarray((grey * 255 / WHITE_16).round().astype(np.uint8))
    if image.mode in TRANSPARENT or "transparency" in image.info:
        colours = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours)
    return image


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) of the decoded image, from the file's header alone. Raises ``UnreadableImageError``."""
    with _reading(), open_image(path) as file:
        width, height = file.size
        if file.format in ROTATABLE and file.getexif().get(ORIENTATION) in SIDEWAYS:
            return width, height
        return height, width
