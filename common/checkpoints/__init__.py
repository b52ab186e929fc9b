"""Checkpoint files <-> networks, denoisers and classifiers; nothing in a file is executed."""

from typing import TYPE_CHECKING

from common.naming.lazy_rooms import lazy_exports

if TYPE_CHECKING:
    from common.checkpoints.layouts import Format
    from common.checkpoints.loading import load_classifier, load_denoiser, load_network
    from common.checkpoints.saving import save

__all__ = [
    "Format",
    "load_classifier",
    "load_denoiser",
    "load_network",
    "save",
]

__getattr__ = lazy_exports(__name__)
