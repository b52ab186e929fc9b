"""Reduction of images to the smaller size of a class-conditional denoiser."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from common.checks.settings import check_one_of, check_size

Interpolation = Literal["area", "bilinear"]


@dataclass(frozen=True)
class Reduction:
    """Linear map R of square images (B,C,L,L) to (B,C,S,S), L = ``larger``, S = ``smaller``, f = L / S an integer.

    A pixel of R x is a weighted mean of its neighbours, with the same weights along both axes, so that R is the same in
    the pixel and in the model frame.

    - "area": the mean of a block of f x f pixels.
    - "bilinear": antialiased, weights in proportion to 1 - distance / f at distances (in pixels) below f; at the border
      over the pixels that there are. As torchvision and Pillow reduce images.

    **Noise.** White noise of standard deviation s has at most s ``noise_gain`` in a pixel of R x; 1 / f for "area". Of
    x_tau = x_0 + sigma_tau n, R D(x_tau, sigma_tau) is the posterior mean of R x_0, and no estimate has a smaller mean
    squared error, R x_tau itself included. In every pixel, for the exact denoiser,

        E (R D(x_tau, sigma_tau) - R x_0)^2  <=  E (R x_tau - R x_0)^2  <=  (sigma_tau noise_gain)^2.

    Sums have a fixed order in the image's dtype: the same bits for any batch, and repeatable gradients on every device.
    Raises ``ValueError`` unless ``smaller`` divides ``larger``, and for images of another size.
    """

    larger: int
    smaller: int
    interpolation: Interpolation = "area"

    def __post_init__(self) -> None:
        check_size("larger, the side of the images in pixels,", self.larger)
        check_size("smaller, the side of the denoiser's images in pixels,", self.smaller)
        check_one_of("interpolation", self.interpolation, get_args(Interpolation))
        if self.larger % self.smaller:
            raise ValueError(
                f"smaller must divide larger, so that every pixel is reduced alike; got {self.smaller} and "
                f"{self.larger}. Give the data a size that is a multiple of the denoiser's"
            )

    @property
    def factor(self) -> int:
        """f = L / S."""
        return self.larger // self.smaller

    @property
    def noise_gain(self) -> float:
        """Largest standard deviation in a pixel of R n, n ~ N(0, I)."""
        return float(self._weights.square().sum(1).max())  # of two axes, each the root of a sum of squares

    def check(self, image: Tensor) -> None:
        """Raise ``ValueError`` unless images (B,C,H,W) have the side L."""
        if image.shape[2:] != (self.larger, self.larger):
            h, w = image.shape[2:]
            raise ValueError(
                f"images must be {self.larger} x {self.larger} pixels, the larger size of the reduction; got {h} x {w}"
                ". Set the data's size, or another Reduction"
            )

    def __call__(self, x: Tensor) -> Tensor:
        """R x, (B,C,S,S)."""
        rows = self._along(x.transpose(2, 3)).transpose(2, 3)
        return self._along(rows)

    def _along(self, x: Tensor) -> Tensor:
        """R along the last axis alone."""
        weights = self._weights.to(x, non_blocking=x.is_cuda)
        n, f = weights.shape[1], self.factor
        reach = (n - f) // 2
        padded = F.pad(x, (reach, reach))
        total = padded[..., : self.larger : f] * weights[:, 0]
        for k in range(1, n):
            total = total + padded[..., k : k + self.larger : f] * weights[:, k]
        return total

    @cached_property
    def _weights(self) -> Tensor:
        """Weights (S,n) of the n neighbours of each pixel, float64; zero beyond the border."""
        f = self.factor
        if self.interpolation == "area":
            return torch.full((self.smaller, f), 1 / f, dtype=torch.float64)
        n = 2 * f - f % 2
        distance = torch.arange(n, dtype=torch.float64) - (n - 1) / 2
        position = f * torch.arange(self.smaller)[:, None] + torch.arange(n) - (n - f) // 2
        inside = (position >= 0) & (position < self.larger)
        weights = (1 - distance.abs() / f) * inside
        return weights / weights.sum(1, keepdim=True)
