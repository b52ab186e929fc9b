"""Simulated ranks: closed forms, and 64 ranks that are busy with a certification of unequal images."""

import math
import random

import pytest

from common.records.schema import Cost
from common.records.store import Records
from tests.benchmarks.simulate_ranks import Image, fixed_shares, recorded, shared_counter, table
from tests.common.records.made import certified_record, clean_record


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


def test_costs_are_those_of_recorded_certificates(tmp_path):
    """A slice has at least 32 samples: a third of the cost of 96. Rows of other kinds and without cost do not count."""
    store = Records(tmp_path, "print")
    rows = [certified_record(i, samples=96, cost=Cost(evaluations=cost)) for i, cost in enumerate((960.0, 0.0, None))]
    store.append([*rows, certified_record(5), clean_record(3, cost=Cost(evaluations=1.0))])
    assert recorded(tmp_path) == [Image(960.0, 320.0)]
    with pytest.raises(ValueError, match="no certificates with costs"):
        recorded(store.merge())


@pytest.mark.parametrize("images", [100, 512])
def test_64_ranks_are_busy_with_unequal_images(images):
    """Costs between 1 and 100, evenly in their logarithm, as of images that stop at a stage of a geometric series."""
    chance = random.Random(0)
    costs = [Image(math.exp(chance.uniform(0, math.log(100))), 0.2) for _ in range(images)]
    assert shared_counter(costs, 64)[1] > 0.95
    assert fixed_shares(costs, 64) < shared_counter(costs, 64)[0] < shared_counter(costs, 64)[1]
    assert "busy" in table(costs, 64)
