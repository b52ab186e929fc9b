"""Image files from elsewhere, opened within the bound of pixels before they are decoded."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from PIL import Image

from common.checks.bounds import BOUNDS, check_bound

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM")
"""Formats of images, whatever a file is called. Others of Pillow's start programs, such as Ghostscript for EPS."""


@contextmanager
def open_image(source: Path | IO[bytes], formats: tuple[str, ...] = FORMATS) -> Iterator[Image.Image]:
    """The image in a file, not yet decoded; ``formats`` are those that are tried.

    Raises `BoundError` for more pixels than the bound allows, and any error of Pillow for a damaged file.
    """
    if isinstance(source, Path) and source.exists() and not source.is_file():  # reading a pipe would wait for ever
        raise OSError(errno.EINVAL, "it is no regular file")
    pillows = Image.MAX_IMAGE_PIXELS
    try:
        if pillows is None or pillows >= BOUNDS["pixels"].largest:  # not a lower one of the user's
            Image.MAX_IMAGE_PIXELS = None
        file = Image.open(source, formats=formats)
    finally:
        Image.MAX_IMAGE_PIXELS = pillows
    with file:
        check_bound("pixels", file.size[0] * file.size[1], "it")
        yield file
