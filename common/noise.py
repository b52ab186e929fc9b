"""Stateless normal and uniform numbers: a function of (seed, image index, draw, step, element) alone.

Philox4x32-10 (Salmon et al., SC 2011) turns a 128-bit counter into 128 random bits under a 64-bit key. Here the
key is the seed and the counter is (element block, step, draw, index), so a number does not depend on the batch, the
rank, the order of evaluation or the device. Forward pass, recomputation and backward pass therefore see the same noise,
and a resumed run continues the interrupted one.

Bits become normals by Box-Muller in float64, in operations whose results IEEE 754 fixes (``common.philox``).
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor

from common.checks.deferred import check_values
from common.checks.settings import check_count, check_part, check_seed
from common.philox import box_muller, philox, uniforms

__all__ = ["Noise"]

_MASK = 0xFFFFFFFF
_CACHED_ELEMENTS = 2**17
"""Numbers that are made at once: their float64 intermediates stay in a processor's second-level cache."""


@dataclass(frozen=True)
class Noise:
    """Source of the random numbers of B rows.

    ``seed`` is an int in [0, 2^63), ``index`` (B,) int64 the image of each row, and ``draw`` (B,) int64 the number of
    the row among the independent draws for its image; both in [0, 2^32). All methods are pure.

    ``depth`` counts the calls of `draws` on the way to these rows: draws of draws come from another stream, so
    that they share no number with the draws themselves.
    """

    seed: int
    index: Tensor
    draw: Tensor
    depth: int = 0

    def __post_init__(self) -> None:
        check_seed("seed", self.seed)
        check_count("depth", self.depth, 0)
        for name, value in (("index", self.index), ("draw", self.draw)):
            check_part(name, value, Tensor, "an int64 tensor (B,), one per image")
            if value.dtype != torch.int64 or value.ndim != 1 or value.shape != self.index.shape:
                got = f"{value.dtype} of shape {tuple(value.shape)} beside index {tuple(self.index.shape)}"
                raise ValueError(f"{name} must be an int64 tensor (B,), one per image; got {got}")
            if value.device.type == "cpu" and len(value):
                check_values(torch.stack(value.aminmax()), partial(_check_word, name))

    def _with(self, **changes: Any) -> "Noise":
        """The same noise with other fields, which come from checked ones: checks would wait for the device."""
        noise = object.__new__(type(self))
        noise.__dict__.update(self.__dict__, **changes)
        return noise

    @classmethod
    def of(cls, seed: int, index: Tensor) -> "Noise":
        """Draw 0 of each image in ``index``."""
        return cls(seed, index, torch.zeros_like(index))

    @classmethod
    def fresh(cls, rows: int, device: torch.device | str | None = None) -> "Noise":
        """A new seed from torch's default generator: for interactive use, never for an evaluation."""
        seed = int(torch.randint(2**62, ()).item())
        return cls.of(seed, torch.arange(rows, device=device))

    @classmethod
    def or_fresh(cls, noise: "Noise | None", image: Tensor) -> "Noise":
        """``noise``, or `fresh` noise for a batch of images if it is None."""
        return cls.fresh(len(image), image.device) if noise is None else noise

    def __len__(self) -> int:
        return len(self.index)

    def stream(self, name: str) -> "Noise":
        """Independent noise for another purpose: the seed becomes a hash of (seed, name)."""
        digest = hashlib.sha256(f"{self.seed}/{name}".encode()).digest()
        return self._with(seed=int.from_bytes(digest[:8], "big") >> 1)

    def draws(self, n: int, start: int = 0) -> "Noise":
        """B*n rows, image-major: row b*n+j is draw start+j of image b.

        Of rows with a draw d the new draws are d*n+j, which needs ``start == 0`` if any d > 0. Draws of draws
        (``depth`` > 0) come from a stream of their own for each n and need ``start == 0``: ``draws(10)`` and
        ``draws(10).draws(3)`` share no row. Raises ``ValueError`` otherwise.
        """
        if n < 1 or start < 0:
            raise ValueError(f"draws needs n >= 1 and start >= 0; got n={n}, start={start}")
        if start and self.depth:
            _check_first(start, [1.0])
        elif start:
            check_values(self.draw.any()[None], partial(_check_first, start))
        source = self.stream(f"{n} draws of draws") if self.depth else self
        block = torch.arange(start, start + n, device=self.index.device)
        draw = self.draw[:, None] * n + block
        return Noise(source.seed, self.index.repeat_interleave(n), draw.flatten(), self.depth + 1)

    def rows(self, selection: Tensor | slice) -> "Noise":
        """Rows selected by a mask, indices or a slice."""
        return self._with(index=self.index[selection], draw=self.draw[selection])

    def clone(self) -> "Noise":
        """The same noise in tensors of its own."""
        return self._with(index=self.index.clone(), draw=self.draw.clone())

    def to(self, device: torch.device | str) -> "Noise":
        return self._with(index=self.index.to(device), draw=self.draw.to(device))

    def normal(self, step: int, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard normals (B, *shape): the same bits whatever the batch, rank, order or device.

        Not independent of ``uniform(step, ...)`` of the same step.
        """
        return self.normals((step,), shape, dtype)[0]

    def normals(self, steps: Sequence[int], shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard normals (len(steps), B, *shape) in one pass; slice k has the bits of ``normal(steps[k], shape)``."""
        return self._numbers(box_muller, steps, shape, dtype)

    def uniform(self, step: int, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Uniforms in (0,1), (B, *shape), on a grid of 2^-24 that float32 holds exactly.

        They are made of the same bits as ``normal(step, shape)``, so the two are dependent: take one kind of number
        from a step, and another step or `stream` for the other.
        """
        return self._numbers(uniforms, (step,), shape, dtype)[0]

    def _numbers(
        self,
        of_words: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
        steps: Sequence[int],
        shape: Sequence[int],
        dtype: torch.dtype,
    ) -> Tensor:
        """Numbers (len(steps), B, *shape) made ``of_words`` (0, 2) and (1, 3) of each block, chunk by chunk."""
        if not all(0 <= step <= _MASK for step in steps):
            raise ValueError(f"a step must be in 0 .. 2^32 - 1; got {list(steps)}")
        size = math.prod(shape)
        blocks = (size + 3) // 4
        numbers = torch.empty(len(steps), len(self), blocks, 4, dtype=dtype, device=self.index.device)
        at_once = max(1, min(len(steps), _CACHED_ELEMENTS // max(1, size)))  # steps
        rows = max(1, _CACHED_ELEMENTS // max(1, at_once * size))
        for k, b in product(range(0, len(steps), at_once), range(0, len(self), rows)):
            first, second = of_words(*self._words(steps[k : k + at_once], slice(b, b + rows), blocks))
            for place, values in enumerate((first[0], second[0], first[1], second[1])):
                numbers[k : k + at_once, b : b + rows, :, place] = values
        return numbers.flatten(2)[..., :size].reshape(len(steps), len(self), *shape)

    def _words(self, steps: Sequence[int], rows: slice, blocks: int) -> tuple[Tensor, Tensor]:
        """Philox words (0, 2) and (1, 3) of ``blocks`` blocks: two tensors (2, steps, rows, blocks)."""
        device = self.index.device
        block = torch.arange(blocks, device=device).view(1, 1, -1)
        step = _on(device, steps).view(-1, 1, 1)
        counter = (block, step, self.draw[rows].view(1, -1, 1), self.index[rows].view(1, -1, 1))
        return philox(counter, (self.seed & _MASK, self.seed >> 32))


def _on(device: torch.device, steps: Sequence[int]) -> Tensor:
    """The steps as a tensor (N,) int64: consecutive ones are made on the device, which nobody waits for."""
    if list(steps) == list(range(steps[0], steps[0] + len(steps))):
        return torch.arange(steps[0], steps[0] + len(steps), device=device)
    return torch.tensor(list(steps)).to(device, non_blocking=device.type == "cuda")


def _check_word(name: str, ends: list[float]) -> None:
    """Lowest and highest value of a word of the counter."""
    low, high = (int(end) for end in ends)
    if not 0 <= low <= high <= _MASK:
        got = f"{low} to {high}"
        raise ValueError(f"{name} must be in 0 .. 2^32 - 1, else numbers would repeat; got {got}")


def _check_first(start: int, further: list[float]) -> None:
    """Blocks of draws that begin at ``start``: of rows that are draws themselves they would overlap."""
    if further[0]:
        raise ValueError(f"draws of draws need start = 0, else blocks overlap; got start={start}. Use stream(name)")
