"""Pixel frame [0,1] and model frame [-1,1], and the conversions between them.

The only home of ``2x - 1``. A noise level belongs to the frame of the image it is added to; the model frame is twice as
wide, hence ``sigma_model = 2 sigma_pixel``.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:  # settings are checked without torch
    from torch import Tensor

Level = TypeVar("Level", float, "Tensor")


def to_model(image: Tensor) -> Tensor:
    """Pixel frame [0,1] to model frame [-1,1]: ``x0 = 2 image - 1``; any shape, never clamped."""
    return 2 * image - 1


def to_pixel(x: Tensor) -> Tensor:
    """Model frame [-1,1] to pixel frame [0,1]: ``image = (x + 1) / 2``; any shape, never clamped."""
    return (x + 1) / 2


def sigma_to_model(sigma: Level) -> Level:
    """Noise level (standard deviation) in the model frame of noise added to pixels: ``2 sigma``."""
    return 2 * sigma


def sigma_to_pixel(sigma: Level) -> Level:
    """Noise level (standard deviation) in pixels of noise in the model frame: ``sigma / 2``."""
    return sigma / 2


def parse_number(value: float | str) -> float:
    """A number, or a ratio as the field writes it, as a float: ``parse_number("8/255") == 8 / 255``.

    Raises ``ValueError`` for anything else.
    """
    try:
        return float(Fraction(value)) if isinstance(value, str) and "/" in value else float(value)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError) as error:
        raise ValueError(f"expected a number or a ratio such as 8/255; got {value!r}") from error
