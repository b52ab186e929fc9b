"""Checkpoint files <-> networks, denoisers and classifiers; nothing in a file is executed."""

from common.checkpoints.loading import Format, load_classifier, load_denoiser, load_network
from common.checkpoints.saving import save

__all__ = [
    "Format",
    "load_classifier",
    "load_denoiser",
    "load_network",
    "save",
]
