"""Logged accuracies equal the ones that records are summarised to, also when two ranks share the work."""

import pytest
import torch

from common.records.summary import summarise
from common.tasks.running_metrics import CertifiedAccuracy, RobustAccuracy
from tests.common.records.made import certified_record, clean_record


def rows(n=13, draws=4):
    generator = torch.Generator().manual_seed(0)
    guesses = torch.randint(2, (n, draws), generator=generator).tolist()
    guesses[0] = [1] * draws
    return [clean_record(i, g) for i, g in enumerate(guesses)]


def certificates():
    radii = [0.0, 0.1, 0.3, 0.3, 0.9, 1.2]
    guesses = [-1, 1, 1, 0, 1, 1]
    return [certified_record(i, g, r) for i, (g, r) in enumerate(zip(guesses, radii, strict=True))]


def two_ranks(make, records):
    """States of two ranks, reduced by their dist_reduce_fx as torchmetrics does under DDP."""
    ranks = [make(), make()]
    for position, record in enumerate(records):
        ranks[position % 2].update([record])
    whole = make()
    for name, reduce in whole._reductions.items():
        setattr(whole, name, reduce(torch.stack([getattr(rank, name) for rank in ranks])))
    whole._update_count = 1
    return whole


@pytest.mark.parametrize(("over_draws", "name"), [("mean", "Avg"), ("worst", "Wor@4")])
def test_robust_accuracy_is_the_summary(over_draws, name):
    expected = summarise(rows())[0].metrics[name][0]
    metric = RobustAccuracy(over_draws)
    metric.update(rows()[:5])
    metric.update(rows()[5:])
    assert float(metric.compute()) == pytest.approx(expected, rel=1e-6)
    shared = two_ranks(lambda: RobustAccuracy(over_draws), rows())
    assert float(shared.compute()) == pytest.approx(expected, rel=1e-6)
    metric.reset()
    metric.update(rows()[:1])
    assert float(metric.compute()) == 1


@pytest.mark.parametrize(("radius", "expected"), [(0.0, 4 / 6), (0.25, 3 / 6), (0.3, 3 / 6), (1.0, 1 / 6), (2.0, 0.0)])
def test_certified_accuracy_by_hand(radius, expected):
    for metric in (CertifiedAccuracy(radius), two_ranks(lambda: CertifiedAccuracy(radius), certificates())):
        if metric.n == 0:
            metric.update(certificates())
        assert float(metric.compute()) == pytest.approx(expected)


def test_settings_are_checked():
    with pytest.raises(ValueError, match="'mean' or 'worst'"):
        RobustAccuracy("median")
    with pytest.raises(ValueError, match="radius must be at least 0"):
        CertifiedAccuracy(-0.1)
