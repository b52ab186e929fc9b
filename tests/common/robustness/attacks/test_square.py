"""Square's published schedule of windows."""

import math

import pytest
import torch

from common.robustness.attacks.square import Square
from common.robustness.threats.norm_ball import ThreatModel

IMAGE = torch.zeros(1, 1, 64, 64)
PUBLISHED = [  # of 10,000 proposals: the last with a share of the pixels, over the first share (arXiv 1912.00049)
    (10, 1),
    (50, 2),
    (200, 4),
    (500, 8),
    (1000, 16),
    (2000, 32),
    (4000, 64),
    (6000, 128),
    (8000, 256),
    (9999, 512),
]


@pytest.mark.parametrize("queries", [10_000, 5000, 1000])
@pytest.mark.parametrize("norm", [math.inf, 2])
def test_the_window_is_halved_at_the_published_shares_of_the_proposals(queries, norm):
    square, ball, first = Square(queries=queries), ThreatModel(norm, 0.5), 1
    for last, parts in PUBLISHED:
        side = round(math.sqrt(0.8 * 64 * 64 / parts))
        last = last * queries // 10_000
        for query in {first, last}:
            least = 1 if norm == math.inf or query >= 0.6 * queries else 2 if query >= 0.2 * queries else 3
            assert square._side(query, IMAGE, ball) == max(side, least), query
        first = last + 1


def test_the_first_window_has_its_share_of_the_pixels():
    ball = ThreatModel("inf", 0.5)
    for window in (0.8, 0.3, 0.05):
        assert Square(window=window)._side(1, IMAGE, ball) == round(math.sqrt(window) * 64)
