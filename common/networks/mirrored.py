"""Mean of a network's logits over an image and its mirror image."""

import torch
from torch import Tensor, nn

from common.checks.settings import check_part


class Mirrored(nn.Module):
    """(f(x) + f(mirror x)) / 2 in evaluation mode, x (B,C,H,W) mirrored left to right -> (B,K); f(x) in training mode.

    One call of f with 2B rows, in order x and mirror x. It is part of the recipe of arXiv 2404.00498, and twice the
    cost of f. The result is the same for an image and its mirror image.

    Args:
        network: f, of images without a left and right of their own, such as CIFAR-10 (not of digits).
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = check_part("network", network, nn.Module, "a module")

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            logits: Tensor = self.network(x)
            return logits
        both: Tensor = self.network(torch.cat([x, x.flip(3)]))
        return (both[: len(x)] + both[len(x) :]) / 2
