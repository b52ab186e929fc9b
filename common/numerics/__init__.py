"""Central differences, and the result of a numerical check."""

from common.numerics.finding import Finding
from common.numerics.finite_differences import Derivatives, directional_derivatives

__all__ = [
    "Finding",
    "Derivatives",
    "directional_derivatives",
]
