"""Batched, mixed-precision and compiled network evaluation, and its cost."""

from common.engine.engine import Engine
from common.engine.meter import Meter

__all__ = [
    "Engine",
    "Meter",
]
