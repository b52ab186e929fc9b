"""Logits of an elimination: dropped classes, margins and the order of the nodes."""

import math

import pytest
import torch

from ndc.elimination import Elimination
from ndc.node_order import node_order
from tests.ndc.elimination_worlds import table

# Logits --------------------------------------------------------------------------------------------------------------


def random_terms(nodes, images, classes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    level = torch.randn(images, classes, generator=generator, dtype=torch.float64)
    return (level + 0.7 * torch.randn(nodes, images, classes, generator=generator, dtype=torch.float64)) / nodes


@pytest.mark.parametrize(
    "elimination",
    [
        Elimination(),
        Elimination(errors=1.0),
        Elimination((1, 3, 9), errors=0.0, margin=0.4),
        Elimination((2, 4), keep=3),
        Elimination((2, 5, 9), margin=math.inf, keep=(5, 3, 1)),
    ],
    ids=str,
)
def test_no_dropped_class_wins_and_those_left_have_their_full_sums(elimination):
    values, prior = random_terms(16, 500, 8), torch.linspace(-0.3, 0.3, 8, dtype=torch.float64)
    terms, calls = table(values)
    logits = elimination.logits(terms, elimination.plan(16), prior, 500)
    full = values.sum(0) + prior
    seen = torch.zeros(500, 8, dtype=torch.int64)
    for nodes, rows, candidates in calls:
        seen[rows] += len(nodes) * candidates
    winner = logits.argmax(1)
    assert torch.equal(seen.gather(1, winner[:, None])[:, 0], seen.amax(1))
    whole = seen == 16
    torch.testing.assert_close(logits[whole], full[whole], rtol=1e-12, atol=1e-12)
    finished = whole.any(1)
    assert finished.any() or elimination.keep == (5, 3, 1)
    best = full.masked_fill(~whole, -math.inf).argmax(1)
    assert torch.equal(winner[finished], best[finished])
    assert (seen < 16).any()


def test_a_dropped_class_keeps_its_paired_deficit():
    """Two classes of three left after two nodes, scaled from 2 nodes to 8; then all of the winner's."""
    values = random_terms(8, 1, 3)
    values[:, 0, 2] -= 1.0
    elimination = Elimination((2,), errors=0.0, margin=3.0)
    (first, rest), (terms, _) = elimination.plan(8), table(values)
    logits = elimination.logits(terms, [first, rest], torch.zeros(3, dtype=torch.float64), 1)[0]
    full = values.sum(0)[0]
    torch.testing.assert_close(logits[:2], full[:2])
    winner = int(full[:2].argmax())
    deficit = 4 * (values[first, 0, 2] - values[first, 0, winner]).sum()
    torch.testing.assert_close(logits[2], full[winner] + deficit)
    assert deficit < -3


@pytest.mark.parametrize("count", [8, 64, 500])
@pytest.mark.parametrize("stage", [1, 4])
def test_a_margin_is_in_the_units_of_the_logits_for_any_number_of_nodes(count, stage):
    gaps = torch.tensor([0.0, 0.9, 1.1, 5.0], dtype=torch.float64)
    terms, calls = table((-gaps / count).expand(count, 1, 4))
    elimination = Elimination((stage,), errors=0.0, margin=1.0)
    elimination.logits(terms, elimination.plan(count), torch.zeros(4, dtype=torch.float64), 1)
    assert calls[1][2].tolist() == [[True, True, False, False]]


def test_the_margin_in_standard_errors_is_the_pooled_one():
    """Written out for one image after four of eight nodes: rivals 1.2, 2 and 6 behind, with different spreads."""
    behind = torch.tensor([[0, 1.2, 2.0, 6.0]], dtype=torch.float64) + torch.tensor(
        [[0, 0.1, -0.4, 2.0], [0, -0.1, 0.4, 1.0], [0, 0.3, 0.2, -2.0], [0, -0.3, -0.2, -1.0]], dtype=torch.float64
    )
    error = math.sqrt((1 - 4 / 8) * (1 + 1 / 6) * sum(behind[:, k].var().item() for k in (1, 2, 3)) / 3 / 4)
    for margin, left in ((1.9, [1, 1, 0, 0]), (2.1, [1, 1, 1, 0])):
        terms, calls = table((-behind / 8).repeat(2, 1).unsqueeze(1))
        elimination = Elimination((4,), errors=(margin - 0.5) / error, margin=0.5)
        elimination.logits(terms, [[0, 1, 2, 3], [4, 5, 6, 7]], torch.zeros(4, dtype=torch.float64), 1)
        assert calls[1][2].tolist() == [[bool(b) for b in left]]


def test_a_class_with_an_infinite_term_is_dropped_and_the_others_are_compared_as_usual():
    values, prior = random_terms(16, 300, 8), torch.zeros(8, dtype=torch.float64)
    values[15, :, 3] = -math.inf  # at the first node that is visited
    evaluated = []

    def terms(nodes, rows, candidates):
        evaluated.append(candidates.sum(0)[3].item())
        return values[list(nodes)][:, rows].masked_fill(~candidates, 0.0)

    logits = Elimination().logits(terms, Elimination().plan(16), prior, 300)
    assert (logits.argmax(1) == values.sum(0).argmax(1)).double().mean() >= 0.99
    assert evaluated[0] == 300
    assert not any(evaluated[1:])


def test_as_many_classes_as_are_kept():
    terms, calls = table(random_terms(64, 9, 50))
    elimination = Elimination((2, 5, 25), margin=math.inf, keep=(40, 8, 4))  # class and node courses of algorithm 6
    elimination.logits(terms, elimination.plan(64), torch.zeros(50, dtype=torch.float64), 9)
    assert [(len(nodes), set(candidates.sum(1).tolist())) for nodes, _, candidates in calls] == [
        (2, {50}), (3, {40}), (20, {8}), (39, {4}),
    ]  # fmt: skip
    terms, calls = table(random_terms(16, 9, 50))
    last = Elimination((2, 4), margin=math.inf, keep=10)
    last.logits(terms, last.plan(16), torch.zeros(50, dtype=torch.float64), 9)
    assert [set(candidates.sum(1).tolist()) for _, _, candidates in calls] == [{50}, {50}, {10}]


def test_an_image_with_one_class_left_is_done():
    values = random_terms(8, 3, 4)
    values[:, 1, 2] += 10.0
    terms, calls = table(values)
    elimination = Elimination((2,), errors=0.0, margin=20.0)
    elimination.logits(terms, elimination.plan(8), torch.zeros(4, dtype=torch.float64), 3)
    assert [rows.tolist() for _, rows, _ in calls] == [[0, 1, 2], [0, 2]]


# The order of the nodes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3, 8, 12, 100])
def test_the_order_visits_every_node_and_every_beginning_is_spread(count):
    """Of m = 2^k nodes, any window of count/m of the range holds one to within two neighbours."""
    nodes = node_order(count)
    assert sorted(nodes) == list(range(count))
    assert nodes[0] == count - 1
    for m in (2, 4, 8):
        if m <= count:
            gaps = torch.tensor([-1, *sorted(nodes[:m])]).diff()
            assert gaps.max() <= count / m + 2


def test_antithetic_neighbours_are_visited_together():
    assert node_order(7, pairs=True) == [4, 5, 0, 1, 2, 3, 6]
    for count in (8, 9):
        for stage in Elimination().plan(count, antithetic=True)[:-1]:
            assert all((node ^ 1) in stage for node in stage)


def test_the_default_stages():
    assert [len(stage) for stage in Elimination().plan(16)] == [4] + [2] * 6
    assert [len(stage) for stage in Elimination().plan(70)] == [4] + [2] * 6 + [4] * 4 + [8] * 4 + [6]
    assert [len(stage) for stage in Elimination().plan(33, antithetic=True)] == [8] + [4] * 6 + [1]
    assert [len(stage) for stage in Elimination().plan(2)] == [2]
    assert sum(map(len, Elimination().plan(100))) == 100
