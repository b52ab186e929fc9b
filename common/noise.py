"""Stateless normal and uniform numbers: a function of (seed, image index, draw, step, element) alone.

Philox4x32-10 (Salmon et al., SC 2011) turns a 128-bit counter into 128 random bits under a 64-bit key. Here the
key is the seed and the counter is (element block, step, draw, index), so a number does not depend on the batch, the
rank, the order of evaluation or the device. Forward pass, recomputation and backward pass therefore see the same noise,
and a resumed run continues the interrupted one.

Bits become normals by Box-Muller in float64, written with additions, multiplications, divisions and square roots
alone: IEEE 754 fixes the result of each of these, whereas ``log`` and ``cos`` differ in the last bit between devices.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.checks.settings import check_count, check_part, check_seed

__all__ = ["Noise"]

_MASK = 0xFFFFFFFF
_ROUNDS = 10
_CACHED_ELEMENTS = 2**17
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Philox4x32-10: 32-bit words in int64 tensors, broadcast against each other.

    Returns words (0, 2) stacked and words (1, 3) stacked, each (2, ...): the cipher works on these pairs.
    A 32 x 32-bit product wraps modulo 2^64 in int64, which keeps all 64 bits; ``>> 32 & mask`` reads the upper half.
    """
    shape = (counter[0] + counter[1] + counter[2] + counter[3]).shape
    words = [word.expand(shape) for word in counter]
    even, odd = torch.stack((words[0], words[2])), torch.stack((words[1], words[3]))
    column = (2,) + (1,) * len(shape)
    keys = [[(k + r * w) & _MASK for k, w in zip(key, _WEYL, strict=True)] for r in range(_ROUNDS)]
    constants = torch.tensor([_MULTIPLIERS, *keys], device=even.device).view(_ROUNDS + 1, *column)
    forward, swapped = constants, constants.flip(1)
    for r in range(_ROUNDS):  # a round swaps the halves; here the constants alternate instead
        multiplier, round_key = (forward[0], swapped[r + 1]) if r % 2 == 0 else (swapped[0], forward[r + 1])
        product = even * multiplier
        even = (product >> 32).bitwise_and_(_MASK).bitwise_xor_(round_key)
        even[0].bitwise_xor_(odd[1])
        even[1].bitwise_xor_(odd[0])
        odd = product.bitwise_and_(_MASK)
    return even, odd


def _horner(x: Tensor, coefficients: Sequence[float]) -> Tensor:
    """c0 + x (c1 + x (c2 + ...)), one multiplication and one addition at a time (a fused one rounds differently)."""
    result = torch.full_like(x, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        result = result.mul_(x).add_(c)
    return result


_ATANH = [2 / (2 * k + 1) for k in range(9)]  # |s| <= 0.172: error < 1e-15
_SINE = [(-1) ** k / math.factorial(2 * k + 1) for k in range(8)]  # |a| <= pi/4: error < 1e-15
_COSINE = [(-1) ** k / math.factorial(2 * k) for k in range(9)]


def _negative_log(u: Tensor) -> Tensor:
    """-ln u for u in (0,1), float64: u = m 2^e with m in [1/sqrt2, sqrt2), ln m = 2 artanh((m-1)/(m+1))."""
    mantissa, exponent = torch.frexp(u)
    low = mantissa < math.sqrt(0.5)
    mantissa = torch.where(low, mantissa * 2, mantissa)
    exponent = exponent.to(u.dtype) - low.to(u.dtype)
    s = (mantissa - 1) / (mantissa + 1)
    return -(s * _horner(s * s, _ATANH)) - exponent * math.log(2)


def _cos_sin_turn(word: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin of 2 pi word / 2^32, float64: the nearest quarter turn exactly, the rest by series."""
    quarter = (word + 2**29) >> 30
    angle = (word - (quarter << 30)).to(torch.float64) * (2 * math.pi / 2**32)
    square = angle * angle
    cos, sin = _horner(square, _COSINE), angle * _horner(square, _SINE)
    odd = (quarter & 1).bool()
    flip_cos = (((quarter + 1) >> 1) & 1).to(torch.float64)
    flip_sin = ((quarter >> 1) & 1).to(torch.float64)
    return torch.where(odd, sin, cos) * (1 - 2 * flip_cos), torch.where(odd, cos, sin) * (1 - 2 * flip_sin)


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
            if value.device.type == "cpu" and len(value) and not 0 <= int(value.min()) <= int(value.max()) <= _MASK:
                got = f"{int(value.min())} to {int(value.max())}"
                raise ValueError(f"{name} must be in 0 .. 2^32 - 1, else numbers would repeat; got {got}")

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
        return Noise(int.from_bytes(digest[:8], "big") >> 1, self.index, self.draw, self.depth)

    def draws(self, n: int, start: int = 0) -> "Noise":
        """B*n rows, image-major: row b*n+j is draw start+j of image b.

        Of rows with a draw d the new draws are d*n+j, which needs ``start == 0`` if any d > 0. Draws of draws
        (``depth`` > 0) come from a stream of their own for each n and need ``start == 0``: ``draws(10)`` and
        ``draws(10).draws(3)`` share no row. Raises ``ValueError`` otherwise.
        """
        if n < 1 or start < 0:
            raise ValueError(f"draws needs n >= 1 and start >= 0; got n={n}, start={start}")
        if start and (self.depth or bool(self.draw.any())):
            raise ValueError(f"draws of draws need start = 0, else blocks overlap; got start={start}. Use stream(name)")
        source = self.stream(f"{n} draws of draws") if self.depth else self
        block = torch.arange(start, start + n, device=self.index.device)
        draw = self.draw[:, None] * n + block
        return Noise(source.seed, self.index.repeat_interleave(n), draw.flatten(), self.depth + 1)

    def rows(self, selection: Tensor | slice) -> "Noise":
        """Rows selected by a mask, indices or a slice."""
        return Noise(self.seed, self.index[selection], self.draw[selection], self.depth)

    def clone(self) -> "Noise":
        """The same noise in tensors of its own."""
        return Noise(self.seed, self.index.clone(), self.draw.clone(), self.depth)

    def to(self, device: torch.device | str) -> "Noise":
        return Noise(self.seed, self.index.to(device), self.draw.to(device), self.depth)

    def normal(self, step: int, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard normals (B, *shape): the same bits whatever the batch, rank, order or device.

        Not independent of ``uniform(step, ...)`` of the same step.
        """
        return self.normals((step,), shape, dtype)[0]

    def normals(self, steps: Sequence[int], shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard normals (len(steps), B, *shape) in one pass; slice k has the bits of ``normal(steps[k], shape)``."""
        size = max(1, len(steps) * math.prod(shape))
        rows = max(1, _CACHED_ELEMENTS // size)
        if len(self) > rows:  # chunks that fit a processor's cache
            chunks = [self.rows(slice(b, b + rows)) for b in range(0, len(self), rows)]
            return torch.cat([chunk.normals(steps, shape, dtype) for chunk in chunks], dim=1)
        even, odd = self._words(steps, math.prod(shape))
        u = even.to(torch.float64).add_(0.5).mul_(2.0**-32)
        radius = _negative_log(u).mul_(2).sqrt_()
        cos, sin = _cos_sin_turn(odd)
        return self._arrange((cos.mul_(radius), sin.mul_(radius)), steps, shape, dtype)

    def uniform(self, step: int, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Uniforms in (0,1), (B, *shape), on a grid of 2^-24 that float32 holds exactly.

        They are made of the same bits as ``normal(step, shape)``, so the two are dependent: take one kind of number
        from a step, and another step or `stream` for the other.
        """
        words = self._words((step,), math.prod(shape))
        u = tuple(((w >> 9).to(torch.float64) + 0.5) * 2.0**-23 for w in words)
        return self._arrange(u, (step,), shape, dtype)[0]

    def _words(self, steps: Sequence[int], size: int) -> tuple[Tensor, Tensor]:
        """Philox words for ceil(size/4) blocks: two tensors (2, steps, B, blocks)."""
        if not all(0 <= step <= _MASK for step in steps):
            raise ValueError(f"a step must be in 0 .. 2^32 - 1; got {list(steps)}")
        device = self.index.device
        block = torch.arange((size + 3) // 4, device=device).view(1, 1, -1)
        step = torch.tensor(list(steps), device=device).view(-1, 1, 1)
        counter = (block, step, self.draw.view(1, -1, 1), self.index.view(1, -1, 1))
        return philox(counter, (self.seed & _MASK, self.seed >> 32))

    def _arrange(
        self, pair: tuple[Tensor, ...], steps: Sequence[int], shape: Sequence[int], dtype: torch.dtype
    ) -> Tensor:
        """Words 0..3 of a block as four neighbouring elements, cut to the shape."""
        size = math.prod(shape)
        values = torch.stack((pair[0][0], pair[1][0], pair[0][1], pair[1][1]), dim=-1).flatten(-2)
        return values[..., :size].to(dtype).reshape(len(steps), len(self), *shape)
