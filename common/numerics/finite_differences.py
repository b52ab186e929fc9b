"""Directional derivatives by central differences, with an error estimate."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

FINE = (1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-5, 1e-4, 1e-3)  # for float64: rounding error about 1e-16 / h, truncation h^2
COARSE = (1e-2, 5e-3, 2e-2, 2.5e-3)  # for float32


@dataclass(frozen=True)
class Derivatives:
    """Derivatives ``value`` (D,) along D directions, with the error estimate ``spread`` (D,).

    ``spread`` is the smallest difference between the results of two neighbouring step sizes h at which the function
    changes. ``flat`` (D,) is true where it did not change at any h.
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
    once two neighbouring h agree to ``tolerance`` in all directions. A piecewise smooth function rarely has a kink or
    jump within the first h, and ten times as rarely within the next: guidance by a network with max pooling jumps every
    1e-6. One that rounds to float32 inside needs the largest h, and does not change at the smallest.
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
    """Differences of neighbouring estimates (n-1, D); infinite where both are 0 and another estimate is not."""
    changes = torch.stack(list(estimates)).ne(0).any(0)
    return torch.stack(
        [(a - b).abs().masked_fill((a == 0) & (b == 0) & changes, torch.inf) for a, b in pairwise(estimates)]
    )
