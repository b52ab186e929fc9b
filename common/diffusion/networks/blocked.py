"""A network on blocks of pixels: the image at a fraction of its side, with as many more channels."""

from torch import Tensor, nn
from torch.nn import functional as F

from common.checks.settings import check_part, check_size


class Blocked(nn.Module):
    """A network of images (B,C n²,H/n,W/n) as one of images (B,C,H,W): the pixels of n x n blocks become channels.

    The rearrangement is invertible, and the network's cost falls n²-fold at equal widths: the finest level of a U-Net
    on 32x32 images costs more than all others together. Denoising networks on shuffled pixels are as accurate at a
    quarter of the cost (arXiv 1710.04026). Further arguments reach the network unchanged:
    ``blocked(x, c_noise, class_labels)``.

    Args:
        network: of images with ``C n²`` channels and side ``H/n``, in and out.
        block: n, the side of a block in pixels.

    Raises ``ValueError`` for a block of less than one pixel and, when called, for sides that are not multiples of it.
    """

    def __init__(self, network: nn.Module, block: int = 2) -> None:
        super().__init__()
        check_part("network", network, nn.Module, "a module")
        self.network, self.block = network, check_size("block, the side of a block in pixels,", block)

    def forward(self, x: Tensor, *conditions: Tensor | None) -> Tensor:
        if x.shape[2] % self.block or x.shape[3] % self.block:
            raise ValueError(f"sides must be multiples of the block, {self.block}; got {tuple(x.shape)}.")
        out: Tensor = self.network(F.pixel_unshuffle(x, self.block), *conditions)
        return F.pixel_shuffle(out, self.block)
