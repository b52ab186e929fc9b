"""Picture files -> pixels: any format, colour mode and depth, as 8 bits per channel; resized and cropped if wanted."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms import InterpolationMode, Normalize, ToTensor

SUFFIXES = {*".png .jpg .jpeg .jpe .jfif .webp .bmp .gif .tif .tiff .ppm .pgm .pbm".split()}  # noqa: SIM905
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
    except UnidentifiedImageError as error:
        raise UnreadableError("it is no picture, or of an unknown format") from error
    except (OSError, ValueError, RuntimeError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        said = getattr(error, "strerror", None) or str(error)  # without the path: whoever reports it names the file
        raise UnreadableError(said.split("\n")[0] or type(error).__name__) from error


def list_pictures(place: Path) -> list[str]:
    """Names of the pictures in a folder and its sub-folders, linked ones too, relative to it, in torchvision's order.

    Nothing hidden, and no folder twice: a link to a folder further up does no harm. Files that cannot be read are named
    as well.
    """
    found: dict[str, list[str]] = {}
    seen: set[str] = set()
    for folder, inside, names in os.walk(place, followlinks=True):
        real = os.path.realpath(folder)
        inside[:] = [] if real in seen else sorted(name for name in inside if not name.startswith("."))
        if real not in seen:
            seen.add(real)
            relative = Path(folder).relative_to(place).as_posix()
            prefix = "" if relative == "." else f"{relative}/"  # no path per picture: there may be a million
            found[folder] = [f"{prefix}{name}" for name in sorted(names) if _is_picture(name)]
    return [name for folder in sorted(found) for name in found[folder]]


def _is_picture(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith(".")


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


class Crop:
    """The square of pixels (C,H,W), float32 in [0,1], that a network sees of a picture: timm's evaluation transform.

    It resizes the shorter side to ``size / crop_pct`` by Pillow's ``interpolation`` and cuts out the centre; without
    ``size`` a picture stays as it is. ``timm_model`` takes the place of these three: all is done as timm does it with
    that model's pictures, at its training size if timm states another one for tests. The normalisation is left out, it
    belongs to the classifier.

    ``config`` is timm's data config (``input_size``, ``crop_pct``, ``crop_mode``, ``interpolation``, …), None without
    resizing. Raises ``ValueError`` for values out of range and for a name that timm does not know.
    """

    def __init__(
        self,
        size: int | None = None,
        crop_pct: float = 1.0,
        interpolation: str = "bicubic",
        timm_model: str | None = None,
    ) -> None:
        if size is not None and size < 1:
            raise ValueError(f"size must be at least 1 pixel, or null for no resizing; got {size}")
        if not 0 < crop_pct <= 1:
            raise ValueError(f"crop_pct, the share of the shorter side that is kept, is in (0, 1]; got {crop_pct}")
        names = [mode.value for mode in InterpolationMode if mode != InterpolationMode.NEAREST_EXACT]
        if interpolation not in names:
            raise ValueError(f"interpolation must be one of {', '.join(names)}; got {interpolation!r}")
        self.config: dict[str, Any] | None = None
        self._steps: list[Callable[[Any], Any]] = [ToTensor()]
        if timm_model is not None:
            self._follow(_stated_by_timm(timm_model))
        elif size is not None:
            self._follow({"input_size": (3, size, size), "crop_pct": crop_pct, "interpolation": interpolation})

    def _follow(self, stated: dict[str, Any]) -> None:
        import timm  # not needed for pictures as they are

        self.config = timm.data.resolve_data_config(pretrained_cfg=stated)
        steps = timm.data.create_transform(**self.config, is_training=False).transforms
        self._steps = [step for step in steps if not isinstance(step, Normalize)]

    @property
    def sides(self) -> tuple[int, int] | None:
        """(H,W) of the result, None where it depends on the picture."""
        return None if self.config is None else self.config["input_size"][1:]

    def __call__(self, picture: Image.Image) -> Tensor:
        pixels: Any = picture
        for step in self._steps:
            pixels = step(pixels)
        result: Tensor = pixels
        return result


def _stated_by_timm(model: str) -> dict[str, Any]:
    import timm

    try:
        stated: dict[str, Any] = timm.models.get_pretrained_cfg(model, allow_unregistered=False).to_dict()
    except RuntimeError as error:
        raise ValueError(f"timm_model must be the name of one, see timm.list_models(); {error}") from error
    return stated
