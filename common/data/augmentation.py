"""Shifted and flipped training images, a function of the image's index and the epoch."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from common.checks.settings import check_count, check_one_of
from common.noise import Noise

Mirroring = Literal["never", "random", "alternating"]


@dataclass(frozen=True)
class Augmentation:
    """Random shifts by up to ``shift`` pixels along each axis, with reflected borders, and horizontal flips.

    ``mirroring="alternating"`` flips every image in every second epoch, a random half of them in the even ones: two
    epochs show each image in both orientations, whereas independent flips show half of the images twice in the same
    one (arXiv 2404.00498). "random" flips independently in each epoch. The noise must have the epoch as its draw, as
    that of training tasks has.

    Raises ``ValueError`` for a negative shift and for an unknown mirroring.
    """

    shift: int = 2
    mirroring: Mirroring = "alternating"

    def __post_init__(self) -> None:
        check_count("shift, in pixels,", self.shift, 0)
        check_one_of("mirroring", self.mirroring, get_args(Mirroring))

    def __call__(self, image: Tensor, noise: Noise) -> Tensor:
        """Images (B,C,H,W) of this epoch, with one row of noise each.

        Raises ``ValueError`` for a shift that is not less than the sides.
        """
        if self.shift >= min(image.shape[2:]):
            raise ValueError(f"shift must be less than the image's sides; got {self.shift} for {tuple(image.shape)}")
        if self.mirroring != "never":
            flipped = self._flipped(noise.stream("mirroring"))
            image = torch.where(flipped.view(-1, 1, 1, 1), image.flip(3), image)
        if not self.shift:
            return image
        offsets = noise.stream("shift").uniform(0, (2,)).mul(2 * self.shift + 1).floor().to(torch.int64) - self.shift
        rows, columns = (_reflected(offsets[:, axis], image.shape[axis + 2]) for axis in (0, 1))
        batch = torch.arange(len(image), device=image.device)
        return image[batch[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)

    def _flipped(self, noise: Noise) -> Tensor:
        """Mask of the images that are flipped, (B,) bool."""
        if self.mirroring == "random":
            return noise.uniform(0, ()) < 0.5
        first = Noise(noise.seed, noise.index, torch.zeros_like(noise.draw)).uniform(0, ()) < 0.5
        return first ^ (noise.draw % 2 == 1)


def _reflected(offset: Tensor, side: int) -> Tensor:
    """Source positions (B,side) of the pixels of an axis shifted by ``offset`` (B,), reflected at the borders."""
    position = (torch.arange(side, device=offset.device) + offset[:, None]).abs()
    return torch.where(position < side, position, 2 * (side - 1) - position)
