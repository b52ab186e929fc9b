"""Directional derivatives by central differences, with the error that they know of themselves."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

FINE = (1e-6, 1e-7, 1e-8, 1e-5, 1e-4, 1e-3)  # float64: rounding costs 1e-16 / h and more, curvature h^2
COARSE = (1e-2, 5e-3, 2e-2, 2.5e-3)  # float32


@dataclass(frozen=True)
class Slopes:
    """``value`` (D,) along D directions, and ``spread`` (D,), how far two distances h disagreed at best.

    Where nothing moved at any h that was tried, ``flat`` (D,) is true.
    """

    value: Tensor
    spread: Tensor
    flat: Tensor


def slopes(
    function: Callable[[Tensor], Tensor],
    point: Tensor,
    directions: Tensor,
    ladder: Sequence[float] = FINE,
    enough: float = 0.0,
) -> Slopes:
    """``(f(x + h v) - f(x - h v)) / 2h`` at ``point`` (1, ...) along ``directions`` (D, ...).

    ``function`` maps points (n, ...) to values (n,). Each h of the ladder costs 2 D values; the search ends once two
    neighbours on the ladder agree to ``enough`` in all directions. Of a function that is smooth but for kinks the
    first h straddles one rarely, the next ten times as rarely; one that rounds to float32 inside needs the last.
    """
    count, found = len(directions), []
    for h in ladder:
        with torch.no_grad():
            values = function(torch.cat([point + h * directions, point - h * directions]))
        found.append((values[:count] - values[count:]) / (2 * h))
        if len(found) > 1 and bool((_gaps(found).amin(0) <= enough).all()):
            break
    gaps = _gaps(found)
    best = gaps.argmin(0)
    value = torch.stack(found[1:]).gather(0, best[None])[0]
    return Slopes(value, gaps.amin(0), torch.stack(found).eq(0).all(0))


def _gaps(found: Sequence[Tensor]) -> Tensor:
    return torch.stack([(a - b).abs() for a, b in pairwise(found)])
