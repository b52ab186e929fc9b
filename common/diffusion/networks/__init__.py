"""Bodies of diffusion models: (noisy image, noise level) -> prediction, with the tensor names of published weights."""

from common.diffusion.networks.adm import ADM, EDMADM
from common.diffusion.networks.blocked import Blocked
from common.diffusion.networks.ddpm import DDPMUNet
from common.diffusion.networks.ddpmpp import DDPMpp
from common.diffusion.networks.ncsnpp import NCSNpp
from common.diffusion.networks.unet2d import UNet2D

__all__ = ["ADM", "EDMADM", "Blocked", "DDPMUNet", "DDPMpp", "NCSNpp", "UNet2D"]
