"""Python interface: evaluation, certification and prediction in one call. ``robust_diffusion`` re-exports it."""

from common.api.evaluate import certify, evaluate
from common.api.predict import Predictions, predict
from common.api.result import Result, compare

__all__ = ["Predictions", "Result", "certify", "compare", "evaluate", "predict"]
