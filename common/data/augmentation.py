"""Shifted, flipped and masked training images, a function of the image's index and the epoch."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from common.checks.settings import check_count, check_one_of
from common.noise import Noise

Mirroring = Literal["never", "random", "alternating"]


@dataclass(frozen=True)
class Augmentation:
    """Random shifts by up to ``shift`` pixels along each axis, with reflected borders, horizontal flips and cutout.

    ``mirroring="alternating"`` flips every image in every second epoch, a random half of them in the even ones: two
    epochs show each image in both orientations, whereas independent flips show half of the images twice in the same
    one (arXiv 2404.00498). "random" flips independently in each epoch. The noise must have the epoch as its draw, as
    that of training tasks has.

    Cutout (arXiv 1708.04552) sets a square of ``cutout`` pixels a side to mid-grey, 0.5; its place is uniform among
    those that hold the whole square. 0 leaves it out.

    Raises ``ValueError`` for a negative shift or cutout and for an unknown mirroring.
    """

    shift: int = 2
    mirroring: Mirroring = "alternating"
    cutout: int = 0

    def __post_init__(self) -> None:
        check_count("shift, in pixels,", self.shift, 0)
        check_one_of("mirroring", self.mirroring, get_args(Mirroring))
        check_count("cutout, in pixels,", self.cutout, 0)

    def __call__(self, image: Tensor, noise: Noise) -> Tensor:
        """Images (B,C,H,W) of this epoch, with one row of noise each.

        Raises ``ValueError`` for a shift or cutout that is not less than the sides.
        """
        for name in ("shift", "cutout"):
            if getattr(self, name) >= min(image.shape[2:]):
                found = f"got {getattr(self, name)} for {tuple(image.shape)}"
                raise ValueError(f"{name} must be less than the image's sides; {found}")
        if self.mirroring != "never":
            flipped = self._flipped(noise.stream("mirroring"))
            image = torch.where(flipped.view(-1, 1, 1, 1), image.flip(3), image)
        if self.shift:
            image = self._shifted(image, noise.stream("shift"))
        return self._cut(image, noise.stream("cutout")) if self.cutout else image

    def _shifted(self, image: Tensor, noise: Noise) -> Tensor:
        offsets = noise.uniform(0, (2,)).mul(2 * self.shift + 1).floor().to(torch.int64) - self.shift
        rows, columns = (_reflected(offsets[:, axis], image.shape[axis + 2]) for axis in (0, 1))
        batch = torch.arange(len(image), device=image.device)
        return image[batch[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)

    def _cut(self, image: Tensor, noise: Noise) -> Tensor:
        sides = torch.tensor(image.shape[2:], device=image.device)
        first = noise.uniform(0, (2,)).mul(sides - self.cutout + 1).floor().to(torch.int64)
        inside = []
        for axis, side in enumerate(image.shape[2:]):
            from_first = torch.arange(side, device=image.device) - first[:, axis, None]
            inside.append((from_first >= 0) & (from_first < self.cutout))
        mask = inside[0][:, None, :, None] & inside[1][:, None, None, :]
        return image.masked_fill(mask, 0.5)

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
