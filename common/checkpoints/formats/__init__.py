"""Published checkpoint layouts, read without executing anything in a file."""

from common.checkpoints.formats.edm_network import EDMNetwork, as_denoiser, as_network
from common.checkpoints.formats.published import load_body, load_classifier, load_denoiser, load_network

__all__ = ["EDMNetwork", "as_denoiser", "as_network", "load_body", "load_classifier", "load_denoiser", "load_network"]
