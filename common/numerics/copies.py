"""Copies of what parts from elsewhere are handed, which may write into it."""

from typing import Any

from torch import Tensor

from common.noise import Noise


def copied(*values: Any) -> tuple[Any, ...]:
    """Clones of tensors and of ``Noise``; gradients pass through, anything else stays as it is.

    A network that scales its input in place (``x.mul_(0.9)``, or through NumPy) then changes its own copy alone. A
    clone of a batch costs a thousandth of a network's forward pass. Comparing versions (``tensor._version``) would
    cost less, but does not see writes through NumPy or ``.data``.
    """
    return tuple(value.clone() if isinstance(value, Tensor | Noise) else value for value in values)
