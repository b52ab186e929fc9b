"""Directional derivatives by central differences, with an error estimate."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

FINE = (1e-6, 1e-7, 1e-8, 1e-5, 1e-4, 1e-3)  # for float64: rounding error about 1e-16 / h, truncation error h^2
COARSE = (1e-2, 5e-3, 2e-2, 2.5e-3)  # for float32


@dataclass(frozen=True)
class Derivatives:
    """Derivatives ``value`` (D,) along D directions, with the error estimate ``spread`` (D,).

    ``spread`` is the smallest difference between the results of two neighbouring step sizes h. ``flat`` (D,) is true
    where the function did not change at any h.
    """

    value: Tensor
    spread: Tensor
    flat: Tensor


def directional_derivatives(
    function: Callable[[Tensor], Tensor],
    point: Tensor,
    directions: Tensor,
    step_sizes: Sequence[float] = FINE,
    tolerance: float = 0.0,
) -> Derivatives:
    """``(f(x + h v) - f(x - h v)) / 2h`` at ``point`` (1, ...) along ``directions`` (D, ...).

    ``function`` maps points (n, ...) to values (n,). Each h of ``step_sizes`` costs 2 D evaluations; the search ends
    once two neighbouring h agree to ``tolerance`` in all directions. A piecewise smooth function rarely has a kink
    within the first h, and ten times as rarely within the next; one that rounds to float32 inside needs the largest h.
    """
    count, estimates = len(directions), []
    for h in step_sizes:
        with torch.no_grad():
            values = function(torch.cat([point + h * directions, point - h * directions]))
        estimates.append((values[:count] - values[count:]) / (2 * h))
        if len(estimates) > 1 and bool((_gaps(estimates).amin(0) <= tolerance).all()):
            break
    gaps = _gaps(estimates)
    best = gaps.argmin(0)
    value = torch.stack(estimates[1:]).gather(0, best[None])[0]
    return Derivatives(value, gaps.amin(0), torch.stack(estimates).eq(0).all(0))


def _gaps(estimates: Sequence[Tensor]) -> Tensor:
    return torch.stack([(a - b).abs() for a, b in pairwise(estimates)])
