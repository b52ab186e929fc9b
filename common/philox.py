"""Philox words, and normal and uniform numbers made of them, with the same bits on every device.

Written with additions, multiplications, divisions, square roots and bit operations alone: IEEE 754 fixes the result of
each of these, whereas ``log`` and ``cos`` differ in the last bit between devices. Intermediates are overwritten, which
halves the time on a CPU: a new tensor of this size costs more than the operation that fills it.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_ROUNDS = 10
_BROADCAST_ROUNDS = 2  # even, so that the halves are in place after the rounds that follow
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)

_ATANH = [2 / (2 * k + 1) for k in range(9)]  # |s| <= 0.172: error < 1e-15
_SINE = [(-1) ** k / math.factorial(2 * k + 1) for k in range(8)]  # |a| <= pi/4: error < 1e-15
_COSINE = [(-1) ** k / math.factorial(2 * k) for k in range(9)]
_SQRT_HALF_BITS = 0x3FE6A09E667F3BCD  # of math.sqrt(0.5) in float64
_BIAS_BITS = 0x4338000000000000  # of 1.5 * 2^52


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Philox4x32-10: 32-bit words in int64 tensors, broadcast against each other.

    Returns words (0, 2) stacked and words (1, 3) stacked, each (2, ...): the cipher works on these pairs.
    A 32 x 32-bit product wraps modulo 2^64 in int64, which keeps all 64 bits; ``>> 32 & mask`` reads the upper half.
    """
    w0, w1, w2, w3 = counter
    keys = _round_keys(key)
    for k0, k1 in keys[:_BROADCAST_ROUNDS]:  # words that depend on some of the counters alone are computed once
        product0, product2 = w0 * _MULTIPLIERS[0], w2 * _MULTIPLIERS[1]
        w0, w2 = (product2 >> 32 & _MASK) ^ w1 ^ k0, (product0 >> 32 & _MASK) ^ w3 ^ k1
        w1, w3 = product2 & _MASK, product0 & _MASK
    shape = (w0 + w1 + w2 + w3).shape
    even = torch.stack((w0.expand(shape), w2.expand(shape)))
    odd = torch.stack((w1.expand(shape), w3.expand(shape)))
    product = torch.empty_like(even)
    tables = _constants(key, even.device)
    forward, swapped = (table.view(-1, 2, *(1,) * (even.ndim - 1)) for table in tables)
    for r in range(_ROUNDS - _BROADCAST_ROUNDS):  # a round swaps the halves; here the constants alternate instead
        multiplier, round_key = (forward[0], swapped[r + 1]) if r % 2 == 0 else (swapped[0], forward[r + 1])
        torch.mul(even, multiplier, out=product)
        torch.bitwise_right_shift(product, 32, out=even).bitwise_xor_(round_key)
        even[0].bitwise_xor_(odd[1])
        even[1].bitwise_xor_(odd[0])
        even.bitwise_and_(_MASK)  # also of the upper half of ``odd``, which is the whole product
        odd, product = product, odd
    return even, odd.bitwise_and_(_MASK)


def _round_keys(key: tuple[int, int]) -> list[list[int]]:
    return [[(k + r * w) & _MASK for k, w in zip(key, _WEYL, strict=True)] for r in range(_ROUNDS)]


@lru_cache(maxsize=64)
def _constants(key: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    """The multipliers and the keys of the rounds for both words of a pair, (11, 2), and with the words swapped."""
    numbers = [_MULTIPLIERS, *_round_keys(key)[_BROADCAST_ROUNDS:]]
    # made of kernels' arguments: a copy from the host would wait for the device
    constants = torch.stack([torch.full((), one, device=device) for pair in numbers for one in pair]).view(-1, 2)
    return constants, constants.flip(1)


def box_muller(even: Tensor, odd: Tensor) -> tuple[Tensor, Tensor]:
    """Independent standard normals in float64, two of each pair of words (int64, in 0 .. 2^32 - 1).

    The words are overwritten.
    """
    radius = negative_log(_as_float(even).add_(0.5).mul_(2.0**-32)).mul_(2).sqrt_()
    cos, sin = cos_sin_turn(odd)
    return cos.mul_(radius), sin.mul_(radius)


def uniforms(even: Tensor, odd: Tensor) -> tuple[Tensor, Tensor]:
    """Uniforms in (0,1) in float64, on a grid of 2^-24 that float32 holds exactly."""
    first, second = (((word >> 9).to(torch.float64) + 0.5) * 2.0**-23 for word in (even, odd))
    return first, second


def negative_log(u: Tensor) -> Tensor:
    """-ln u of normal numbers u in (0,1), float64; ``u`` is overwritten.

    u = m 2^e with m in [1/sqrt2, sqrt2), read from its bits, and ln m = 2 artanh((m-1)/(m+1)).
    """
    bits = u.view(torch.int64)
    exponent = (bits - _SQRT_HALF_BITS).bitwise_right_shift_(52)
    bits.sub_(exponent << 52)  # u is now m
    s = (u - 1).div_(u.add_(1))
    negative = _horner(torch.mul(s, s, out=u), _ATANH).mul_(s).neg_()
    return negative.sub_(_as_float(exponent).mul_(math.log(2)))


def cos_sin_turn(word: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin of 2 pi word / 2^32, float64: the nearest quarter turn exactly, the rest by series.

    ``word`` (int64, in 0 .. 2^32 - 1) is overwritten.
    """
    quarter = (word + 2**29).bitwise_right_shift_(30)
    rest = word.bitwise_left_shift_(34).bitwise_right_shift_(34)  # word - quarter 2^30: its lower 30 bits, signed
    angle = _as_float(rest).mul_(2 * math.pi / 2**32)
    square = angle * angle
    cos, sin = _horner(square, _COSINE), _horner(square, _SINE).mul_(angle)
    cos_bits, sin_bits = cos.view(torch.int64), sin.view(torch.int64)
    swap = torch.bitwise_xor(cos_bits, sin_bits, out=square.view(torch.int64))
    swap.bitwise_and_((quarter & 1).neg_())  # in odd quarters they change places
    cos_bits.bitwise_xor_(swap).bitwise_xor_((quarter + 1).bitwise_right_shift_(1).bitwise_left_shift_(63))
    sin_bits.bitwise_xor_(swap).bitwise_xor_(quarter.bitwise_right_shift_(1).bitwise_left_shift_(63))
    return cos, sin


def _as_float(integer: Tensor) -> Tensor:
    """Integers of less than 2^51, int64, as float64 in the same memory: the mantissa of 1.5 2^52 + integer."""
    return integer.add_(_BIAS_BITS).view(torch.float64).sub_(1.5 * 2.0**52)


def _horner(x: Tensor, coefficients: Sequence[float]) -> Tensor:
    """c0 + x (c1 + x (c2 + ...)), one multiplication and one addition at a time (a fused one rounds differently)."""
    *others, last = coefficients
    result = x * last
    for c in reversed(others[1:]):
        result = result.add_(c).mul_(x)
    return result.add_(others[0])
