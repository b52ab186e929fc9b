"""APGD's published schedule of step sizes, step by step on given losses and gradients (arXiv 2003.01690)."""

import pytest
import torch

from common.robustness.attacks.apgd_steps import APGDSteps, checkpoints
from common.robustness.threats.norm_ball import ThreatModel

EPS = 0.1


def run(losses, norm="inf", gradient=1.0):
    """A run on one grey image of 2x2 pixels, given the losses of its steps; the step sizes that were used."""
    image = torch.full((1, 1, 2, 2), 0.5)
    steps = APGDSteps(ThreatModel(norm, EPS), image, image.clone(), 100)
    sizes = []
    for loss in losses:
        steps.step(torch.tensor([float(loss)]), gradient * torch.ones_like(image))
        sizes.append(float(steps.size))
    return steps, sizes


def rising(rises, length=22):
    """Losses of ``length`` steps after a 0: first all that fall, then ``rises`` that rise; the last is the best."""
    falls = length - rises
    losses = [0.0, *(-1.0 - k for k in range(falls))]
    return [*losses, *(losses[-1] + 100.0 * (k + 1) for k in range(rises))]


def test_the_checkpoints_are_the_published_ones():
    """p = 0.22, 0.41, 0.57, 0.70, 0.80, 0.87, 0.93, 0.99 of the steps."""
    assert sorted(checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert sorted(checkpoints(50)) == [11, 21, 29, 35, 40, 44, 47, 50]


@pytest.mark.parametrize(("rises", "halved"), [(22, False), (17, False), (16, True), (14, True), (1, True)])
def test_the_step_is_halved_below_three_quarters_of_rises(rises, halved):
    """16.5 of the 22 steps before the first checkpoint: 16 rises are too few, 17 are enough."""
    _, sizes = run(rising(rises))
    assert sizes[:22] == pytest.approx([2 * EPS] * 22)
    assert sizes[22] == pytest.approx(EPS if halved else 2 * EPS)


def test_the_rises_are_counted_from_the_last_checkpoint():
    """All 22 rise, then 14 of 19: below 14.25, halved at 41; 15 of 19 are enough."""
    start = rising(22)
    for rises, size in ((14, EPS), (15, 2 * EPS)):
        later = [start[-1] + loss for loss in rising(rises, 19)][1:]
        _, sizes = run([*start, *later])
        assert sizes[41] == pytest.approx(size), rises


def test_a_step_that_was_kept_is_halved_when_the_best_loss_stays():
    """Many rises below the best loss: at 41 it is that of the checkpoint at 22, whose step was kept."""
    start = rising(22)
    below = [start[-1] - 1000 + k for k in range(19)]  # 18 of 19 rise
    _, sizes = run([*start, *below])
    assert (sizes[22], sizes[41]) == pytest.approx((2 * EPS, EPS))


def test_after_a_halving_the_run_goes_on_from_its_best_point():
    steps, _ = run([*rising(3)[:-1], -500.0])  # the best point is the one before the last, halved at 22
    assert float(steps.size) == pytest.approx(EPS)
    assert torch.equal(steps.previous, steps.best)  # no momentum after the jump


def test_the_first_step_is_twice_eps_and_momentum_follows():
    image = torch.full((1, 1, 1, 1), 0.5, dtype=torch.float64)
    steps = APGDSteps(ThreatModel("inf", 0.4), image, image.clone(), 100)
    one = torch.ones_like(image)
    steps.size.fill_(0.1)
    steps.step(torch.tensor([0.0]), one)
    assert float(steps.x) == pytest.approx(0.6)  # the first step has no momentum
    steps.step(torch.tensor([1.0]), one)
    assert float(steps.x) == pytest.approx(0.6 + 0.75 * 0.1 + 0.25 * 0.1)
    steps.step(torch.tensor([2.0]), -one)
    assert float(steps.x) == pytest.approx(0.7 - 0.75 * 0.1 + 0.25 * 0.1)
