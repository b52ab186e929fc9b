"""The spatial threat: images made by moving pixels a little, rather than by changing their values."""

from collections.abc import Iterator
from itertools import combinations

import torch
from torch import Tensor
from torch.nn import functional

from common.noise import Noise
from common.robustness.threats.norm_ball import Threat
from common.units import parse_number

_ANYWHERE = 2.0  # the width of the image in its grid's units: a flow that long reaches every pixel from every other
_HALVINGS = 16  # of the interval in which a distance lies: 1.5e-5 of its size


class SpatialThreat(Threat):
    """``{ warp(image, f) : |f|_inf <= eps }``, where every pixel p is read at p + f(p) by bilinear interpolation.

    The flow f (2,H,W), first across and then down, is in units of the sampling grid, which goes from -1 to 1 over
    the image: eps is ``eps W / 2`` pixels across and ``eps H / 2`` down, 0.8 pixels for 0.05 at 32 x 32 (Xiao et al.,
    arXiv 1801.02612; the bound 0.05 is that of DiffPure's unseen threats, arXiv 2205.07460). Beyond the edge of the
    image lie zeros. Repeating the edge there would reach less: what is read beyond it can then be read on it.
    """

    written = "a flow, SpatialThreat(eps)"

    def __init__(self, eps: float | str = 0.05):
        self.eps = parse_number(eps)
        if not 0 < self.eps <= 1:
            raise ValueError(f"eps must be in units of the grid, 0 < eps <= 1, half the image; got {self.eps}")

    @property
    def name(self) -> str:
        """``"spatial"``."""
        return "spatial"

    def warp(self, image: Tensor, flow: Tensor) -> Tensor:
        """Each pixel read where its flow (B,2,H,W) points to; differentiable in the flow. Not clamped to [0,1]."""
        height, width = image.shape[-2:]
        down, across = torch.meshgrid(_centres(height), _centres(width), indexing="ij")
        grid = torch.stack((across, down)).to(flow) + flow
        return functional.grid_sample(image, grid.permute(0, 2, 3, 1), align_corners=False)

    def random_flow(self, image: Tensor, noise: Noise, step: int = 0) -> Tensor:
        """(B,2,H,W): every entry uniform in [-eps, eps]."""
        return self.eps * (2 * noise.uniform(step, (2, *image.shape[-2:]), image.dtype) - 1)

    def random_like(self, image: Tensor, adv: Tensor, noise: Noise) -> Tensor:
        """The image warped by a random flow within ``eps``, see ``random_flow``."""
        return self.warp(image, self.random_flow(image, noise)).clamp(0, 1)

    def check(self, image: Tensor, adv: Tensor) -> Tensor:
        """Whether adv may be a warp of image within ``eps``, (B,) bool: no honest one is refused.

        Only the two images are given, not the flow. As every pixel has a flow vector of its own, adv is allowed if and
        only if each of its pixels, a vector of C colours, is found somewhere in the rectangle of the interpolated image
        that its vector can reach. What is checked is necessary for that: each colour, and each difference of two, lies
        between the smallest and largest value that the interpolation of it takes there, and pixels are in [0,1].

        For one channel this is sufficient as well, since a continuous function on a rectangle takes every value between
        its extremes. For more it is not: the colours may each be found at another point of the rectangle. Values may be
        out by ``(H + W + 1) 2^-22``, what float32 makes of an honest position, times the largest slope, one a pixel.
        """
        inside = ((adv >= 0) & (adv <= 1)).flatten(1).all(1)
        return inside & self._reachable(_colours(image), _colours(adv), self.eps)

    def distance(self, image: Tensor, adv: Tensor) -> Tensor:
        """The smallest bound that `check`'s condition allows, (B,) float64; infinite if no warp makes adv.

        A lower bound on the size of any flow from image to adv; for one channel the size of the smallest one. Found by
        bisection to 1.5e-5 of itself, and never above ``eps`` for what `check` allows.
        """
        pairs = zip(_colours(image).unsqueeze(1).unbind(), _colours(adv).unsqueeze(1).unbind(), strict=True)
        found = [self._smallest(colours, wanted) for colours, wanted in pairs]
        return torch.tensor(found, dtype=torch.float64, device=image.device)

    def _smallest(self, colours: Tensor, wanted: Tensor) -> float:
        """Bisection for one image: the rectangles of a larger bound hold those of a smaller one."""
        low, high = 0.0, self.eps
        if bool(self._reachable(colours, wanted, 0.0)):
            return 0.0
        while not bool(self._reachable(colours, wanted, high)):
            if high == _ANYWHERE:
                return torch.inf
            low, high = high, min(2 * high, _ANYWHERE)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            inside = bool(self._reachable(colours, wanted, middle))
            low, high = (low, middle) if inside else (middle, high)
        return high

    def _reachable(self, colours: Tensor, wanted: Tensor, eps: float) -> Tensor:
        """(B,) bool: every value of ``wanted`` is one that the interpolation of ``colours`` takes within ``eps``."""
        height, width = colours.shape[-2:]
        slack = (height + width + 1) * 2.0**-22
        least = most = colours
        for low, high in self._extremes(colours, eps * height / 2, eps * width / 2):
            least, most = torch.minimum(least, low), torch.maximum(most, high)
        return ((wanted >= least - slack) & (wanted <= most + slack)).flatten(1).all(1)

    def _extremes(self, colours: Tensor, down: float, across: float) -> Iterator[tuple[Tensor, Tensor]]:
        """Smallest and largest values of the interpolation within ``down`` and ``across`` pixels of each pixel.

        Between pixels the interpolation is bilinear, so on a rectangle its extremes are at corners: of the rectangle,
        of the pixels' own lattice inside it, or where its sides cross the lattice.
        """
        (rows, y), (columns, x) = (divmod(radius, 1) for radius in (down, across))
        reach = int(columns) + 1, int(columns) + 1, int(rows) + 1, int(rows) + 1
        around = functional.pad(colours, reach)
        for level in _ends(around, -2, int(rows), y):
            yield _pooled(level, level, -1, int(columns))
            for corner in _ends(level, -1, int(columns), x):
                yield corner, corner
        for level in _ends(around, -1, int(columns), x):
            yield _pooled(level, level, -2, int(rows))
        yield _pooled(*_pooled(around, around, -1, int(columns)), -2, int(rows))


def _centres(size: int) -> Tensor:
    """Where the pixels of a row lie in a grid from -1 to 1, (size,) float64."""
    return (2 * torch.arange(size, dtype=torch.float64) + 1) / size - 1


def _colours(image: Tensor) -> Tensor:
    """(B,C',H,W) float64: the channels, and half the difference of each two."""
    image = image.detach().double()
    pairs = combinations(image.unsqueeze(2).unbind(1), 2)
    return torch.cat((image, *((one - other) / 2 for one, other in pairs)), 1)


def _ends(around: Tensor, dim: int, whole: int, part: float) -> tuple[Tensor, Tensor]:
    """Interpolated values ``whole + part`` pixels before and after each pixel, of which ``around`` has a margin."""
    size = around.shape[dim] - 2 * (whole + 1)
    far, near = around.narrow(dim, 0, size), around.narrow(dim, 1, size)
    before = part * far + (1 - part) * near
    far, near = around.narrow(dim, 2 * whole + 2, size), around.narrow(dim, 2 * whole + 1, size)
    return before, part * far + (1 - part) * near


def _pooled(low: Tensor, high: Tensor, dim: int, whole: int) -> tuple[Tensor, Tensor]:
    """Minimum of ``low`` and maximum of ``high`` over the pixels up to ``whole`` away along ``dim``."""
    size = low.shape[dim] - 2
    windows = [each.narrow(dim, 1, size).unfold(dim, 2 * whole + 1, 1) for each in (low, high)]
    return windows[0].amin(-1), windows[1].amax(-1)
