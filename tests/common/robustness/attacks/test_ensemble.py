"""Several attacks on the same images: which result is chosen, and which images each part meets."""

import pytest
import torch

from common.noise import Noise
from common.robustness.attacks.ensemble import Ensemble
from common.robustness.attacks.eot import EOTLoss
from common.robustness.attacks.function_attack import FunctionAttack
from common.robustness.classifiers import Classifier
from common.robustness.threats.norm_ball import ThreatModel

IMAGE = torch.full((3, 1, 2, 2), 0.5, dtype=torch.float64)
LABEL = torch.zeros(3, dtype=torch.int64)
MOVES = {"first": [0.1, -0.2, 0.05], "second": [-0.1, 0.2, 0.2], "third": [0.05, -0.1, -0.1]}


class Sum(Classifier):
    """The margin of class 1 is the sum of the pixels above 0.5 each, up to noise."""

    def __init__(self, randomised):
        super().__init__()
        self.randomised = randomised

    def forward(self, image, noise=None):
        above = (image - 0.5).flatten(1).sum(1)
        if self.randomised:
            above = above + 1e-3 * noise.normal(0, (1,), image.dtype)[:, 0]
        return torch.stack((torch.zeros_like(above), above - 0.1), 1)


def parts(met):
    """Attacks that move all pixels of image i by its entry of `MOVES`; ``met``: the images that each meets."""

    def moving(name):
        def move(classifier, image, label, threat, noise):
            met[name] = noise.index.tolist()
            return image + torch.tensor([MOVES[name][index] for index in met[name]]).view(-1, 1, 1, 1)

        return FunctionAttack(move)

    return {name: moving(name) for name in MOVES}


def ensemble(randomised):
    met = {}
    eot = EOTLoss(Sum(randomised), LABEL, Noise.of(0, torch.arange(3)), 5)
    return Ensemble(parts(met), eot, IMAGE, ThreatModel("inf", 0.2)), met


def test_the_worst_result_has_the_highest_margin_of_all_parts():
    chosen, met = ensemble(randomised=True)
    result = chosen.worst()
    best = [max(moves) for moves in zip(*MOVES.values(), strict=True)]
    torch.testing.assert_close(result.adv[:, 0, 0, 0], 0.5 + torch.tensor(best).double())
    torch.testing.assert_close(result.loss, 4 * torch.tensor(best).double() - 0.1, rtol=0, atol=3e-3)
    assert met == {name: [0, 1, 2] for name in MOVES}
    assert result.queries.tolist() == [15, 15, 15]
    assert result.broken.tolist() == [True, True, True]


def test_in_turn_a_part_meets_what_no_part_before_it_broke():
    chosen, met = ensemble(randomised=False)
    result = chosen.in_turn()
    assert met == {"first": [0, 1, 2], "second": [1]}
    assert result.adv[:, 0, 0, 0].tolist() == pytest.approx([0.6, 0.7, 0.55])
    assert result.broken.tolist() == [True, True, True]


def test_the_worst_result_counts_a_success_of_any_part():
    made = parts({})
    eot = EOTLoss(Sum(True), LABEL, Noise.of(0, torch.arange(3)), 5)
    for names, broken in ((["third"], [True, False, False]), (["third", "second"], [True, True, True])):
        some = Ensemble({name: made[name] for name in names}, eot, IMAGE, ThreatModel("inf", 0.2))
        assert some.worst().broken.tolist() == broken
