"""Published checkpoint layouts, read without executing anything in a file."""

from common.checkpoints.formats.edm_network import EDMNetwork, as_denoiser, as_network
from common.checkpoints.formats.published_files import load_body, read_classifier, read_denoiser, read_network
from common.checkpoints.formats.reading import read_training_checkpoint

__all__ = [
    "EDMNetwork",
    "as_denoiser",
    "as_network",
    "read_training_checkpoint",
    "load_body",
    "read_classifier",
    "read_denoiser",
    "read_network",
]
