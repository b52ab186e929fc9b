"""Bounds of the memory that a file can claim, checked before memory is allocated.

A small file can name sizes of any magnitude. Each bound is far above what published files need;
``ROBUST_DIFFUSION_BOUNDS="pixels=1e9 unpacked=100"`` raises some of them.
"""

import os
from dataclasses import dataclass

OPTION = "ROBUST_DIFFUSION_BOUNDS"


@dataclass(frozen=True)
class Bound:
    """Largest value of a quantity in a file, and the quantity in words."""

    largest: float
    quantity: str


BOUNDS: dict[str, Bound] = {
    "pixels": Bound(89_478_485, "pixels"),
    "unpacked": Bound(10, "bytes of content"),  # times the size of the compressed checkpoint, or 64 MiB
    "tensors": Bound(50_000, "tensors"),
    "weights": Bound(2, "numbers in a network"),  # times those in the file that describes it, or 67 million
    "description": Bound(1e6, "characters of description"),
    "archive": Bound(300, "bytes of records"),  # times the size of the compressed file, or 64 MiB
    "line": Bound(1 << 26, "bytes"),  # of a records file
    "depth": Bound(50, "levels of parts within parts"),
    "size": Bound(1e6, "as an integer of a description"),  # widths, numbers of layers and classes
}
"""Bounds by name."""


class BoundError(ValueError):
    """File whose content exceeds a bound."""


def check_bound(name: str, value: float, source: str, unit: float = 1, allowed: float = 0) -> None:
    """Raise `BoundError` if ``value`` exceeds the bound ``name``, in units of ``unit``, and also ``allowed``."""
    largest = max(bound(name) * unit, allowed)
    if value > largest:
        raise BoundError(
            f"{source} asks for {value:,.0f} {BOUNDS[name].quantity}; at most {largest:,.0f} are read. If you trust "
            f"the file, set {OPTION}={name}={1.1 * value / unit:.2g}"
        )


def bound(name: str) -> float:
    """The bound ``name``: the one in the environment variable or the default. Raises ``ValueError`` for a wrong one."""
    largest = BOUNDS[name].largest
    for entry in os.environ.get(OPTION, "").replace(",", " ").split():
        key, _, value = entry.partition("=")
        try:
            number = float(value)
        except ValueError:
            number = 0.0
        if key not in BOUNDS or not number > 0:
            raise ValueError(f"{OPTION} must list NAME=NUMBER of {', '.join(BOUNDS)}; got {entry!r}")
        largest = number if key == name else largest
    return largest
