"""Central differences, and the result of a numerical check."""

from common.numerics.finding import Finding

__all__ = [
    "Finding",
]
