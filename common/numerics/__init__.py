"""Central differences, and the result of a numerical check."""

from common.numerics.finding import Finding
from common.numerics.finite_differences import Slopes, slopes

__all__ = [
    "Finding",
    "Slopes",
    "slopes",
]
