"""APGD in L1 with the large-eps schedule: recorded counts of the published one, its balls, known optima."""

import pytest
import torch
from torch import nn

from common.noise import Noise
from common.robustness.attacks.apgd import APGD
from common.robustness.attacks.apgd_steps import SparseAPGDSteps, shrinking_balls
from common.robustness.attacks.auto_attack import AutoAttack
from common.robustness.classifiers import Classifier, NetworkClassifier
from common.robustness.threats.norm_ball import ThreatModel
from tests.common.robustness.attacks.recorded import RECORDED, broken
from tests.common.robustness.attacks.test_pgd import largest_gain

L1 = ThreatModel(1, 1.5)


def rows(n, seed=0):
    return Noise.of(seed, torch.arange(n))


def test_it_breaks_as_many_images_as_the_published_attack():
    """The recorded mean is 215 of 320. Without the schedule APGD breaks 191; seeds differ by 1 to 3 images."""
    recorded = RECORDED["APGD-CE in L1, from 3 eps"]
    assert broken(recorded.attack, recorded.threat, seed=0) >= recorded.broken / recorded.seeds


@pytest.mark.parametrize(
    ("steps", "expected"),
    [(100, [(4.5, 30), (3, 30), (1.5, 40)]), (7, [(4.5, 3), (3, 3), (1.5, 1)]), (4, [(1.5, 4)]), (1, [(1.5, 1)])],
)
def test_radii_and_shares_of_the_steps(steps, expected):
    assert [(ball.eps, share) for ball, share in shrinking_balls(L1, steps)] == expected
    assert all(ball.norm == 1 for ball, _ in shrinking_balls(L1, steps))


def test_a_schedule_beyond_the_largest_accepted_radius():
    assert [ball.eps for ball, _ in shrinking_balls(ThreatModel(1, 600), 10)] == [1800, 1200, 600]


def test_only_points_of_the_threat_model_are_returned_or_count_as_broken(digits_network):
    """At this radius the larger balls hold adversarial points of almost all images, the threat's ball of some."""
    classifier, image, label = digits_network
    threat = ThreatModel(1, 0.5)
    result = APGD(20, restarts=2, large_eps=True).search(classifier, image, label, threat, rows(len(image)))
    assert bool(threat.check(image, result.adv).all())
    wrong = classifier(result.adv).argmax(1) != label
    assert torch.equal(result.broken, wrong) and not bool(wrong.all())
    assert result.queries.tolist() == [2 * (20 + 3)] * len(image)
    assert result.curve.shape == (len(image), 2 * (8 + 1))  # the points in the ball of the threat
    larger = ThreatModel(1, 1.5)
    assert (
        int((classifier(APGD(20)(classifier, image, label, larger, rows(40))).argmax(1) != label).sum()) > wrong.sum()
    )


@pytest.mark.parametrize("loss", ["margin", "targeted_margin"])
def test_it_solves_linear_models(loss):
    weight = torch.randn(2, 48, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    layer = nn.Linear(48, 2, bias=False, dtype=torch.float64)
    layer.weight.data.copy_(weight)
    classifier, gain = NetworkClassifier(nn.Sequential(nn.Flatten(), layer)), weight[1] - weight[0]
    image = torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64).round(decimals=1)
    adv = APGD(50, loss=loss, large_eps=True)(classifier, image, torch.zeros(6, dtype=torch.int64), L1, rows(6))
    for x, moved in zip(image.flatten(1), adv.flatten(1), strict=True):
        best = largest_gain(gain.numpy(), x.numpy(), 1, 1.5)
        assert 0.99 * best <= float((moved - x) @ gain) <= best * (1 + 1e-6)


def test_each_run_starts_from_the_best_point_of_the_one_before():
    """13 steps are 4, 4 and 5; the points of a run are one more. The loss is not monotone along a run."""

    class Waves(Classifier):
        def __init__(self):
            super().__init__()
            self.points = []

        def forward(self, image, noise=None):
            self.points.append(image.detach())
            u = image.flatten(1)
            return torch.stack((u.sum(1) * 0, torch.sin(25 * u).sum(1)), 1)

    image, classifier = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(3)), Waves()
    APGD(13, loss="margin", large_eps=True)(classifier, image, torch.tensor([0]), L1, rows(1))
    points = classifier.points
    losses = [float(torch.sin(25 * x).sum()) for x in points]
    later = 0
    for first, ball in ((0, L1.resized(3.0)), (5, L1)):
        best = max(range(first, first + 5), key=lambda k: losses[k])
        later += best < first + 4
        torch.testing.assert_close(points[first + 5], ball.project(image, points[best]), rtol=0, atol=1e-6)
    assert later  # in one of the runs at least, the best point is not the last


def test_a_continued_run_keeps_the_support_of_its_start():
    image = torch.full((2, 1, 4, 4), 0.5)
    start = image.clone()
    start[0, 0, 0, :3], start[1, 0] = 0.7, 0.6
    steps = SparseAPGDSteps(L1, image, start, 40, continued=True)
    assert steps.support.tolist() == [3, 16]
    assert steps.kept.tolist() == pytest.approx([2, 16 / 1.5])
    assert SparseAPGDSteps(L1, image, start, 40).kept.tolist() == pytest.approx([3.2, 3.2])


def test_results_are_independent_of_the_batch(digits_network):
    classifier, image, label = digits_network
    attack = APGD(5, loss="targeted_dlr", targets=2, large_eps=True)
    together = attack(classifier, image[:6], label[:6], L1, rows(6))
    parts = [
        attack(classifier, image[i : i + 2], label[i : i + 2], L1, rows(6).rows(slice(i, i + 2))) for i in (0, 2, 4)
    ]
    torch.testing.assert_close(together, torch.cat(parts), rtol=0, atol=1e-5)


@pytest.mark.parametrize("norm", ["inf", 2])
def test_the_schedule_is_refused_outside_l1(norm, digits_network):
    classifier, image, label = digits_network
    threat = ThreatModel(norm, 0.1)
    with pytest.raises(ValueError, match="large_eps is the schedule of APGD in L1"):
        APGD(large_eps=True).check(threat)
    with pytest.raises(ValueError, match="large_eps is the schedule of APGD in L1"):
        APGD(large_eps=True)(classifier, image, label, threat, rows(len(image)))


def test_autoattack_runs_the_published_parts_in_each_norm(digits_network):
    """Published in L1: five restarts of APGD-CE and five classes of APGD-DLR, both from 3 eps; "rand" is the same."""
    attack = AutoAttack(implementation="assembled")
    ce, dlr, fab, square = attack.sparse_parts.values()
    assert (ce.loss, ce.steps, ce.restarts, ce.large_eps) == ("cross_entropy", 100, 5, True)
    assert (dlr.loss, dlr.steps, dlr.restarts, dlr.targets, dlr.large_eps) == ("targeted_dlr", 100, 1, 5, True)
    assert (fab.steps, fab.targets, square.queries) == (100, 9, 5000)
    ce, dlr, fab, square = attack.parts.values()
    assert (ce.restarts, ce.large_eps, dlr.targets, dlr.large_eps, fab.targets) == (1, False, 9, False, 9)
    assert "L1: APGD-CE 5x100 from 3 eps + APGD-DLR-T 5x100 from 3 eps + FAB-T 9x100 + Square 5000" in str(attack)
    assert "large_eps" not in str(AutoAttack("rand")) and AutoAttack("rand").parts == AutoAttack("rand").sparse_parts

    classifier, image, label = digits_network
    attack = AutoAttack(steps=5, queries=2)
    result = attack.search(classifier, image[:8], label[:8], ThreatModel(1, 0.2), rows(8))
    never = ~result.broken  # the clean image, 5 runs of 5 + 3 points at least for each APGD
    assert bool(never.any()) and bool((result.queries[never] >= 1 + 5 * 8 + 5 * 8).all())
