"""Simulated ranks: closed forms, and 64 ranks that are busy with a certification of unequal images."""

import math
import random

import pytest

from tests.benchmarks.simulate_ranks import Image, fixed_shares, shared_counter, table


def test_equal_images_keep_all_ranks_busy():
    images = [Image(3.0, 0.1)] * 128
    assert fixed_shares(images, 64) == shared_counter(images, 64)[0] == shared_counter(images, 64)[1] == 1


def test_one_image_bounds_the_time_without_help():
    """58 % of all evaluations in one of twenty images, as in a recorded certification, on eight ranks."""
    images = [Image(42 / 19, 0.01)] * 19 + [Image(58.0, 0.01)]
    ordered, helped = shared_counter(images, 8)
    assert ordered == pytest.approx(100 / (8 * (2 * 42 / 19 + 58)))  # the last image begins third on its rank
    assert shared_counter(images[::-1], 8)[0] == pytest.approx(100 / (8 * 58))
    assert helped > 0.95


@pytest.mark.parametrize("images", [100, 512])
def test_64_ranks_are_busy_with_unequal_images(images):
    """Costs between 1 and 100, evenly in their logarithm, as of images that stop at a stage of a geometric series."""
    chance = random.Random(0)
    costs = [Image(math.exp(chance.uniform(0, math.log(100))), 0.2) for _ in range(images)]
    assert shared_counter(costs, 64)[1] > 0.95
    assert fixed_shares(costs, 64) < shared_counter(costs, 64)[0] < shared_counter(costs, 64)[1]
    assert "busy" in table(costs, 64)
