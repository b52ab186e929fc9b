"""Networks under an engine: precision, compilation, micro-batches and cost."""

from common.engine.engine import Engine
from common.engine.meter import Meter

__all__ = [
    "Engine",
    "Meter",
]
