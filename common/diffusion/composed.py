"""Composed purifiers: in sequence, repeated, at another resolution, with fixed noise.

A purifier inside gets copies of image and noise, into which it may write.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.checks.images import check_layout, check_purified
from common.checks.settings import check_part, check_seed, check_sequence, check_size
from common.diffusion.purifiers import Purifier
from common.noise import Noise
from common.numerics.copies import copied


class Chain(Purifier):
    """Purifiers in sequence: stage k purifies the output of stage k - 1, unclamped, with noise of its own.

    ``diffuse`` is that of the first stage. Stage k draws from the stream "stage k", so that stages have independent
    noise, however chains are nested. Stages may share a denoiser, or be the same object.
    """

    def __init__(self, purifiers: Sequence[Purifier]) -> None:
        super().__init__()
        stages = check_sequence("purifiers", purifiers, _check_purifier, note="a Chain needs at least one purifier")
        for k, purifier in enumerate(stages):
            self.add_module(str(k), purifier)

    @property
    def stages(self) -> list[Purifier]:
        """The purifiers in order; the same object may appear twice."""
        return cast("list[Purifier]", list(self._modules.values()))

    def forward(self, image: Tensor, noise: Noise | None = None) -> Tensor:
        noise = Noise.or_fresh(noise, image)
        for k, stage in enumerate(self.stages):
            image = check_purified(stage(*copied(image, noise.stream(f"stage {k}"))), image)
        return image

    def diffuse(self, image: Tensor, noise: Noise | None = None) -> Tensor:
        return self.stages[0].diffuse(*copied(image, Noise.or_fresh(noise, image).stream("stage 0")))


class Repeated(Purifier):
    """The same purification ``rounds`` times over, each with fresh noise, from the streams "round 0", "round 1", ...

    DiffPure's code (arXiv 2205.07460) calls it the number of sample steps. ``diffuse`` is that of the first round.
    """

    def __init__(self, purifier: Purifier, rounds: int) -> None:
        super().__init__()
        self.purifier, self.rounds = _check_purifier("purifier", purifier), check_size("rounds", rounds)

    def forward(self, image: Tensor, noise: Noise | None = None) -> Tensor:
        noise = Noise.or_fresh(noise, image)
        for k in range(self.rounds):
            image = check_purified(self.purifier(*copied(image, noise.stream(f"round {k}"))), image)
        return image

    def diffuse(self, image: Tensor, noise: Noise | None = None) -> Tensor:
        return self.purifier.diffuse(*copied(image, Noise.or_fresh(noise, image).stream("round 0")))


class Resized(Purifier):
    """A purifier at its own resolution: the image is resized to ``size``, purified, and resized back.

    Bilinear (``align_corners=False``, no antialiasing) and differentiable. DiffPure purifies ImageNet at 256 for
    classifiers at 224: ``Resized(purifier, 256)``. ``size`` is a side, or (height, width).
    """

    def __init__(self, purifier: Purifier, size: int | tuple[int, int]) -> None:
        super().__init__()
        sides = check_sequence("size", size if isinstance(size, Sequence) else [size], check_size)
        if len(sides) > 2:
            raise ValueError(f"size must be a side or (height, width) in pixels; got {size}")
        self.size: tuple[int, int] = (sides[0], sides[-1])
        self.purifier = _check_purifier("purifier", purifier)

    def forward(self, image: Tensor, noise: Noise | None = None) -> Tensor:
        resized = _resize(check_layout(image), self.size)
        return _resize(check_purified(self.purifier(*copied(resized, noise)), resized), image.shape[-2:])

    def diffuse(self, image: Tensor, noise: Noise | None = None) -> Tensor:
        return _resize(self.purifier.diffuse(*copied(_resize(image, self.size), noise)), image.shape[-2:])


class FixedNoise(Purifier):
    """A purifier with the same noise for every image and every call: deterministic, and known to an attacker.

    A control: the defence without its randomness. ``noise`` is ignored.
    """

    randomised = False

    def __init__(self, purifier: Purifier, seed: int = 0) -> None:
        super().__init__()
        self.purifier, self.seed = _check_purifier("purifier", purifier), check_seed("seed", seed)

    def forward(self, image: Tensor, noise: Noise | None = None) -> Tensor:
        return check_purified(self.purifier(*copied(image, self._noise(image))), image)

    def diffuse(self, image: Tensor, noise: Noise | None = None) -> Tensor:
        return self.purifier.diffuse(*copied(image, self._noise(image)))

    def _noise(self, image: Tensor) -> Noise:
        return Noise.of(self.seed, torch.zeros(len(image), dtype=torch.int64, device=image.device))


def _check_purifier(name: str, purifier: Purifier) -> Purifier:
    return check_part(name, purifier, nn.Module, "a purifier")


def _resize(image: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear resize of an image (B,C,H,W) to (height, width); unchanged if it has that size."""
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    return F.interpolate(image, size=tuple(size), mode="bilinear", align_corners=False)
