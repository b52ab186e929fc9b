"""Spatial threat: images warped by a small flow, whose pixels move instead of changing their values."""

from collections.abc import Iterator
from itertools import combinations

import torch
from torch import Tensor
from torch.nn import functional

from common.checks.settings import SHORTEST, check_ratio
from common.noise import Noise
from common.robustness.threats.threat import Threat, in_box

_LARGEST = 2.0  # width of the image in units of the grid: a flow of that size connects any two pixels
_BISECTIONS = 16  # relative error 1.5e-5 of a distance


class SpatialThreat(Threat):
    """``{ warp(image, f) : |f|_inf <= eps }``, where every pixel p is read at p + f(p) by bilinear interpolation.

    The flow f (2,H,W), first across and then down, is in units of the sampling grid, which goes from -1 to 1 over
    the image: eps is ``eps W / 2`` pixels across and ``eps H / 2`` down, 0.8 pixels for 0.05 at 32 x 32 (Xiao et al.,
    arXiv 1801.02612; the bound 0.05 is that of DiffPure's unseen threats, arXiv 2205.07460). Beyond the edge of the
    image lie zeros. Repeating the edge there would be a weaker threat: every value beyond the edge is then one on it.
    """

    constructor = "a flow, SpatialThreat(eps)"

    def __init__(self, eps: float | str = 0.05):
        self.eps = check_ratio("eps", eps)
        if 0 < self.eps < SHORTEST:
            raise ValueError(f"eps must be at least {SHORTEST:.3g}, else no pixel moves in float32; got {eps!r}")
        if not 0 < self.eps <= 1:
            raise ValueError(f"eps must be in units of the grid, 0 < eps <= 1, half the image; got {self.eps}")

    @property
    def name(self) -> str:
        """``"spatial"``."""
        return "spatial"

    def warp(self, image: Tensor, flow: Tensor) -> Tensor:
        """The image (B,C,H,W) warped by ``flow`` (B,2,H,W); differentiable in the flow. Not clamped to [0,1]."""
        height, width = image.shape[-2:]
        down, across = torch.meshgrid(_centres(height), _centres(width), indexing="ij")
        grid = torch.stack((across, down)).to(flow) + flow
        return functional.grid_sample(image, grid.permute(0, 2, 3, 1), align_corners=False)

    def random_flow(self, image: Tensor, noise: Noise, step: int = 0) -> Tensor:
        """A flow (B,2,H,W) with entries uniform in [-eps, eps]."""
        return self.eps * (2 * noise.uniform(step, (2, *image.shape[-2:]), image.dtype) - 1)

    def random_like(self, image: Tensor, adv: Tensor, noise: Noise) -> Tensor:
        """The image warped by a random flow within ``eps``, see ``random_flow``."""
        return self.warp(image, self.random_flow(image, noise)).clamp(0, 1)

    def check(self, image: Tensor, adv: Tensor) -> Tensor:
        """True where adv may be a warp of image within ``eps``, (B,) bool; never False for an actual warp.

        The flow is not given. As every pixel has a flow vector of its own, adv is allowed if and only if each of its
        pixels, a vector of C channels, is a value of the interpolated image in the rectangle that its flow vector can
        reach. A necessary condition is checked: each channel, and each difference of two, lies between the smallest and
        largest value that its interpolation takes there, and pixels are in [0,1].

        For one channel it is sufficient as well, since a continuous function on a rectangle takes every value between
        its extremes. For several it is not: the channels may take their values at different points. The tolerance is
        ``(H + W + 1) 2^-22``: float32 rounding of a position, times the largest slope, one per pixel.
        """
        return in_box(adv) & self._reachable(_channels(image), _channels(adv), self.eps)

    def distance(self, image: Tensor, adv: Tensor) -> Tensor:
        """The smallest eps at which `check`'s condition holds, (B,) float64; infinite if there is none.

        A lower bound on the size of any flow from image to adv; for one channel, the size of the smallest flow.
        Bisection to a relative error of 1.5e-5; at most ``eps`` wherever `check` is True.
        """
        pairs = zip(_channels(image).unsqueeze(1).unbind(), _channels(adv).unsqueeze(1).unbind(), strict=True)
        distances = [self._smallest(source, target) for source, target in pairs]
        return torch.tensor(distances, dtype=torch.float64, device=image.device)

    def _smallest(self, source: Tensor, target: Tensor) -> float:
        """Bisection for one image: `_reachable` is monotone in eps."""
        low, high = 0.0, self.eps
        if bool(self._reachable(source, target, 0.0)):
            return 0.0
        while not bool(self._reachable(source, target, high)):
            if high == _LARGEST:
                return torch.inf
            low, high = high, min(2 * high, _LARGEST)
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            inside = bool(self._reachable(source, target, middle))
            low, high = (low, middle) if inside else (middle, high)
        return high

    def _reachable(self, source: Tensor, target: Tensor, eps: float) -> Tensor:
        """True where the interpolation of ``source`` takes every value of ``target`` within ``eps``, (B,) bool."""
        height, width = source.shape[-2:]
        slack = (height + width + 1) * 2.0**-22
        least = most = source
        for low, high in self._extremes(source, eps * height / 2, eps * width / 2):
            least, most = torch.minimum(least, low), torch.maximum(most, high)
        return ((target >= least - slack) & (target <= most + slack)).flatten(1).all(1)

    def _extremes(self, source: Tensor, down: float, across: float) -> Iterator[tuple[Tensor, Tensor]]:
        """Pairs of (minimum, maximum) of the interpolation within ``down`` and ``across`` pixels of each pixel.

        The interpolation is bilinear between pixels, so its extremes on a rectangle lie at the rectangle's corners, at
        pixels inside it, or where its sides cross the pixel grid.
        """
        (rows, y), (columns, x) = (divmod(radius, 1) for radius in (down, across))
        reach = int(columns) + 1, int(columns) + 1, int(rows) + 1, int(rows) + 1
        around = functional.pad(source, reach)
        for level in _ends(around, -2, int(rows), y):
            yield _pooled(level, level, -1, int(columns))
            for corner in _ends(level, -1, int(columns), x):
                yield corner, corner
        for level in _ends(around, -1, int(columns), x):
            yield _pooled(level, level, -2, int(rows))
        yield _pooled(*_pooled(around, around, -1, int(columns)), -2, int(rows))


def _centres(size: int) -> Tensor:
    """Pixel centres of a row in grid units, from -1 to 1, (size,) float64."""
    return (2 * torch.arange(size, dtype=torch.float64) + 1) / size - 1


def _channels(image: Tensor) -> Tensor:
    """The channels and half the difference of each two, (B,C',H,W) float64."""
    image = image.detach().double()
    pairs = combinations(image.unsqueeze(2).unbind(1), 2)
    return torch.cat((image, *((one - other) / 2 for one, other in pairs)), 1)


def _ends(around: Tensor, dim: int, pixels: int, part: float) -> tuple[Tensor, Tensor]:
    """Interpolated values ``pixels + part`` before and after each pixel; ``around`` is padded by ``pixels + 1``."""
    size = around.shape[dim] - 2 * (pixels + 1)
    far, near = around.narrow(dim, 0, size), around.narrow(dim, 1, size)
    before = part * far + (1 - part) * near
    far, near = around.narrow(dim, 2 * pixels + 2, size), around.narrow(dim, 2 * pixels + 1, size)
    return before, part * far + (1 - part) * near


def _pooled(low: Tensor, high: Tensor, dim: int, pixels: int) -> tuple[Tensor, Tensor]:
    """Minimum of ``low`` and maximum of ``high`` over a window of ``pixels`` to either side along ``dim``."""
    size = low.shape[dim] - 2
    windows = [each.narrow(dim, 1, size).unfold(dim, 2 * pixels + 1, 1) for each in (low, high)]
    return windows[0].amin(-1), windows[1].amax(-1)
