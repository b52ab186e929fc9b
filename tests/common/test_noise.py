"""Noise: a pure function of (seed, index, draw, step) with a normal distribution."""

import math

import pytest
import torch
from scipy import stats

from common.noise import Noise
from common.numerics.copies import copied
from common.philox import cos_sin_turn, negative_log, philox

PI_DIGITS = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # the known-answer vectors that Random123 publishes for philox4x32-10
        ((0,) * 4, (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (*PI_DIGITS, (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
    ],
)
def test_philox_known_answers(counter, key, expected):
    even, odd = philox(tuple(torch.tensor([c]) for c in counter), key)
    assert (int(even[0]), int(odd[0]), int(even[1]), int(odd[1])) == expected


def test_elementary_functions_are_exact_to_rounding():
    word = torch.cat((torch.randint(2**32, (50_000,)), torch.arange(8) * 2**29, torch.tensor([2**32 - 1])))
    cos, sin = cos_sin_turn(word.clone())
    angle = word.double() * 2 * math.pi / 2**32
    assert (cos - angle.cos()).abs().max() < 2e-15
    assert (sin - angle.sin()).abs().max() < 2e-15
    u = (word.double() + 0.5) / 2**32
    torch.testing.assert_close(negative_log(u.clone()), -u.log(), rtol=1e-14, atol=1e-17)


def test_a_number_depends_on_its_own_row_only():
    noise = Noise(7, torch.tensor([5, 900_000, 3, 5]), torch.tensor([0, 2, 1, 3]))
    whole = noise.normal(4, (3, 5, 5))
    order = torch.tensor([2, 0, 3])
    assert torch.equal(noise.rows(order).normal(4, (3, 5, 5)), whole[order])
    alone = Noise(7, torch.tensor([900_000]), torch.tensor([2])).normal(4, (3, 5, 5))
    assert torch.equal(alone[0], whole[1])
    assert torch.equal(noise.normals(range(6), (3, 5, 5))[4], whole)


def test_numbers_do_not_depend_on_chunks(monkeypatch):
    noise = Noise.of(1, torch.arange(11))
    whole = noise.normals((0, 3), (2, 7))
    monkeypatch.setattr("common.noise._CACHED_ELEMENTS", 60)
    assert torch.equal(noise.normals((0, 3), (2, 7)), whole)


@pytest.mark.parametrize(
    "other",
    [Noise.of(1, torch.tensor([5])), Noise.of(1 << 32, torch.tensor([5])), Noise.of(1 << 62, torch.tensor([5])),
     Noise.of(0, torch.tensor([6])), Noise(0, torch.tensor([5]), torch.tensor([1])),
     Noise.of(0, torch.tensor([5])).stream("score")],
    ids=["seed", "bit 32 of the seed", "bit 62 of the seed", "index", "draw", "stream"],
)  # fmt: skip
def test_every_coordinate_changes_the_numbers(other):
    one = Noise.of(0, torch.tensor([5])).normal(0, (1000,))
    assert abs(float(torch.corrcoef(torch.cat((one, other.normal(0, (1000,)))))[0, 1])) < 0.13  # 4 standard errors
    assert not torch.equal(one, Noise.of(0, torch.tensor([5])).normal(1, (1000,)))


def test_normals_are_normal():
    """Kolmogorov-Smirnov, and the correlation of neighbours; each fails by chance once in 10,000 seeds."""
    x = Noise.of(11, torch.arange(64)).normal(0, (3125,)).double()
    assert stats.kstest(x.flatten().numpy(), "norm").pvalue > 1e-4
    for lag in (1, 2, 3, 4):
        correlation = float((x[:, lag:] * x[:, :-lag]).mean())
        assert abs(correlation) < 3.9 / math.sqrt(x.numel())
    assert stats.kstest(Noise.of(3, torch.arange(9)).uniform(0, (9999,)).flatten().numpy(), "uniform").pvalue > 1e-4


def test_draws_are_image_major_and_never_coincide():
    noise = Noise.of(0, torch.tensor([8, 9]))
    assert noise.draws(3, start=4).index.tolist() == [8, 8, 8, 9, 9, 9]
    assert noise.draws(3, start=4).draw.tolist() == [4, 5, 6, 4, 5, 6]
    nested = noise.draws(3).draws(2)
    assert len(set(zip(nested.index.tolist(), nested.draw.tolist(), strict=True))) == 12
    with pytest.raises(ValueError, match="blocks overlap"):
        noise.draws(3).draws(2, start=1)
    with pytest.raises(ValueError, match="blocks overlap"):
        noise.draws(1).draws(2, start=1)  # draw 0 is a draw like others


def test_draws_of_draws_share_no_row_with_draws():
    """Numbers, not names of rows, are compared; 2^24 values of a uniform coincide four at a time with chance 1e-24."""
    noise = Noise.of(3, torch.tensor([8, 9]))
    kinds = {
        "draws": noise.draws(10),
        "of draws": noise.draws(10).draws(3),
        "another number of draws": noise.draws(10).draws(4),
        "three deep": noise.draws(2).draws(3).draws(2),
        "of the first draw": noise.draws(10).rows(slice(0, 1)).draws(3).to("cpu"),
        "another stream": noise.draws(10).stream("x").draws(3),
    }
    rows = {name: set(map(tuple, one.uniform(0, (4,)).tolist())) for name, one in kinds.items()}
    assert [len(rows[name]) for name in kinds] == [20, 60, 80, 24, 3, 60]
    assert rows["of the first draw"] < rows["of draws"]
    disjoint = [rows[name] for name in kinds if name != "of the first draw"]
    assert len(set.union(*disjoint)) == sum(map(len, disjoint))


def test_draws_of_an_image_have_the_words_of_its_rows():
    """The first level of draws is the noise at that draw, in every version: records depend on it."""
    noise = Noise.of(3, torch.tensor([8]))
    assert torch.equal(
        noise.draws(4).normal(1, (6,))[2:3], Noise(3, torch.tensor([8]), torch.tensor([2])).normal(1, (6,))
    )
    expected = torch.tensor([-1.6333, -1.2790])
    assert torch.allclose(noise.draws(4).normal(1, (2,))[3], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, torch.tensor([0]), torch.tensor([0])), "seed must be"),
        ((0, torch.tensor([0.0]), torch.tensor([0])), "index must be an int64"),
        ((0, torch.tensor([0, 1]), torch.tensor([0])), "draw must be an int64"),
    ],
)
def test_bad_noise_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Noise(*arguments)


def test_a_bad_step_is_refused():
    with pytest.raises(ValueError, match="step must be"):
        Noise.of(0, torch.tensor([0])).normal(-1, (2,))


@pytest.mark.gpu
def test_same_bits_on_the_accelerator():
    noise = Noise(5, torch.arange(100), torch.arange(100) * 3)
    assert torch.equal(noise.to("cuda").normal(2, (3, 32, 32)).cpu(), noise.normal(2, (3, 32, 32)))


@pytest.mark.parametrize(
    "same",
    [Noise.clone, lambda noise: noise.to("cpu"), lambda noise: noise.rows(slice(None)), lambda noise: copied(noise)[0]],
    ids=["clone", "to", "rows", "copied"],
)
def test_the_same_noise_elsewhere_has_the_same_draws(same):
    """Draws of draws have a stream of their own, also where a classifier was handed a copy."""
    noise = Noise.of(3, torch.arange(2)).draws(10)
    assert torch.equal(same(noise).draws(3).normal(0, (4,)), noise.draws(3).normal(0, (4,)))
    first = {tuple(row) for row in noise.normal(0, (4,)).tolist()}
    assert first.isdisjoint(tuple(row) for row in same(noise).draws(3).normal(0, (4,)).tolist())
    with pytest.raises(ValueError, match="draws of draws need start = 0"):
        same(noise.rows(slice(0, 1))).draws(3, start=1)


def test_streams_are_as_many_as_seeds():
    """No two of 5,000 names share a seed (by chance once in 10^12), and each of its 63 bits is set in half of them."""
    noise = Noise.of(3, torch.tensor([0]))
    seeds = [noise.stream(f"restart {k} step {k % 7}").seed for k in range(5_000)]
    assert len({*seeds}) == len(seeds)
    shares = [sum(seed >> bit & 1 for seed in seeds) / len(seeds) for bit in range(63)]
    assert all(abs(share - 0.5) < 0.04 for share in shares)  # 5.6 standard errors
    assert {noise.stream(f"{k}").seed for k in range(100)}.isdisjoint(
        Noise.of(4, noise.index).stream(f"{k}").seed for k in range(100)
    )


def test_streams_of_streams_are_independent():
    noise = Noise.of(3, torch.arange(4))
    names = [noise, noise.stream("a"), noise.stream("b"), noise.stream("a").stream("a"), noise.stream("aa")]
    rows = torch.stack([each.normal(0, (2000,)).flatten() for each in names]).double()
    correlations = torch.corrcoef(rows) - torch.eye(len(names), dtype=torch.float64)
    assert float(correlations.abs().max()) < 5 / 8000**0.5
