"""Bodies of diffusion models: (noisy image, noise level) -> prediction, under the tensor names of published weights."""

from common.diffusion.networks.ddpmpp import DDPMpp

__all__ = ["DDPMpp"]
