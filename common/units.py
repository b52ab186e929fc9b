"""The two frames and the way between them: pixels in [0,1], the model's data in [-1,1].

The only home of ``2x - 1``. A noise level lives in the frame of the image it is added to, and the
model frame is twice as wide, hence ``sigma_model = 2 sigma_pixel``.
"""

from fractions import Fraction
from typing import TypeVar

from torch import Tensor

Level = TypeVar("Level", float, Tensor)


def to_model(image: Tensor) -> Tensor:
    """Pixels in [0,1] to the model frame [-1,1]: ``x0 = 2 image - 1``; any shape."""
    return 2 * image - 1


def to_pixel(x: Tensor) -> Tensor:
    """Model frame [-1,1] to pixels in [0,1]: ``image = (x + 1) / 2``; any shape, never clamped."""
    return (x + 1) / 2


def sigma_to_model(sigma: Level) -> Level:
    """Standard deviation of noise added to pixels -> the same noise seen in the model frame."""
    return 2 * sigma


def sigma_to_pixel(sigma: Level) -> Level:
    """Standard deviation of noise in the model frame -> the same noise seen on pixels."""
    return sigma / 2


def number(value: float | str) -> float:
    """A float, or a ratio as the field writes it: ``number("8/255") == 8 / 255``.

    Raises ``ValueError`` for anything else.
    """
    try:
        return float(Fraction(value)) if isinstance(value, str) and "/" in value else float(value)
    except (ValueError, ZeroDivisionError) as error:
        raise ValueError(f"expected a number or a ratio such as 8/255; got {value!r}") from error


def whole(name: str, value: object, least: int) -> None:
    """Raises ``ValueError`` unless ``value``, the setting ``name``, is a whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be at least {least}, a whole number; got {value!r}")
