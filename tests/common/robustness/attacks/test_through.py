"""One deployed defence attacked through several differentiation modes, each as if it were the defence's own."""

from dataclasses import dataclass
from typing import get_args

import pytest
import torch
from jsonargparse import ArgumentParser
from torch import nn

from common.diffusion import modes
from common.diffusion.adjoint import Adjoint
from common.diffusion.composed import Chain, FixedNoise, Repeated, Resized
from common.diffusion.differentiation import BPDA, Checkpoint
from common.diffusion.modes import Surrogate
from common.diffusion.purifiers import DiffusionPurifier
from common.diffusion.schedules import VP
from common.exact import ExactDenoiser, GaussianMixture
from common.naming.differentiation_modes import APPROXIMATE, Mode
from common.noise import Noise
from common.robustness.attacks.apgd import APGD
from common.robustness.attacks.attack import Attack
from common.robustness.attacks.library import TorchAttacks
from common.robustness.attacks.pgd import PGD
from common.robustness.attacks.through import Through
from common.robustness.classifiers import NetworkClassifier, Purified
from common.robustness.evaluation.attacked import Attacked
from common.robustness.padding import Padded
from common.robustness.threats.norm_ball import ThreatModel
from common.robustness.voting import Voting

LINF = ThreatModel("inf", 0.1)
IMAGE = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(1))
LABEL, INDEX = torch.tensor([0, 1, 2, 1]), torch.tensor([5, 2, 9, 11])
GIVEN = (IMAGE, LABEL, LINF, Noise.of(3, INDEX).stream("attack"))


def purifier(gradient="checkpoint", solver="euler_maruyama", steps=25) -> DiffusionPurifier:
    means = torch.randn(5, 1, 4, 4, generator=torch.Generator().manual_seed(0)) / 2
    return DiffusionPurifier(ExactDenoiser(GaussianMixture(means, 0.3)), VP(), 0.2, steps, solver, gradient, t_end=5e-3)


def head() -> NetworkClassifier:
    layer = nn.Linear(16, 3)
    layer.weight.data = torch.randn(3, 16, generator=torch.Generator().manual_seed(2)) / 2
    layer.bias.data.zero_()
    return NetworkClassifier(nn.Sequential(nn.Flatten(), layer, nn.Tanh()))


def defence(*given, **settings) -> Purified:
    return Purified(purifier(*given, **settings), head())


@pytest.mark.parametrize(
    "gradient", ["bpda", "adjoint", "surrogate", "full", Surrogate(3), Surrogate(4, solver="ddim"), Adjoint(dt=0.02)]
)
@pytest.mark.parametrize("attack", [PGD(steps=3, eot=2), APGD(steps=3, eot=2)])
def test_equals_the_attack_on_a_defence_with_that_mode(gradient, attack):
    through, configured = (
        each.search(classifier, *GIVEN)
        for each, classifier in ((Through(attack, gradient), defence()), (attack, defence(gradient)))
    )
    assert torch.equal(through.adv, configured.adv)
    assert torch.equal(through.loss, configured.loss)
    if gradient != "full":
        assert not torch.equal(through.adv, attack(defence(), *GIVEN))


def test_exact_mode_on_a_defence_with_an_approximate_gradient():
    attack, weak = PGD(steps=3, eot=2), defence("bpda")
    assert torch.equal(Through(attack, "checkpoint")(weak, *GIVEN), attack(defence(), *GIVEN))
    assert isinstance(weak.purifier.gradient, BPDA)


def test_all_purifiers_inside_are_switched_and_restored():
    shared = purifier(steps=22)
    parts = [shared, purifier("full"), purifier(steps=30), purifier(steps=21)]
    chain = Chain([Repeated(shared, 2), shared, Resized(parts[1], 3), FixedNoise(parts[2])])
    classifier = Padded(Voting(Purified(chain, Purified(parts[3], head())), 2))
    before, noises = [part.gradient for part in parts], []

    @dataclass(frozen=True)
    class Witness(Attack):
        fails: bool

        def __call__(self, classifier, image, label, threat, noise):
            noises.append([type(part.gradient) for part in parts])
            if self.fails:
                raise ZeroDivisionError
            return image

    Through(Witness(False), "bpda")(classifier, *GIVEN)
    with pytest.raises(ZeroDivisionError):
        Through(Witness(True), "surrogate")(classifier, *GIVEN)
    with pytest.raises(ValueError, match=r"fewer steps than the deployed process, 21"):
        Through(Witness(False), Surrogate(21))(classifier, *GIVEN)
    assert noises == [[BPDA] * 4, [Surrogate] * 4], "the third was refused before it began"
    assert [part.gradient for part in parts] == before


@pytest.mark.parametrize(
    ("classifier", "gradient", "message"),
    [
        (head(), "bpda", "no part of NetworkClassifier can be differentiated in another way"),
        (defence(solver="ddim"), "adjoint", "Euler-Maruyama; got the solver DDIM"),
        (defence(steps=5), "surrogate", "fewer steps than the deployed process, 5"),
    ],
)
def test_unsupported_classifiers_raise_before_the_attack(classifier, gradient, message):
    classifier.forward = lambda *_: pytest.fail("called")
    with pytest.raises(ValueError, match=message):
        Through(PGD(), gradient)(classifier, *GIVEN)


def test_invalid_settings_raise():
    with pytest.raises(ValueError, match="gradient must be one of checkpoint, full, bpda, adjoint, surrogate, or a D"):
        Through(PGD(), "exact")
    with pytest.raises(ValueError, match="Through changes a gradient, and TorchAttacks uses none"):
        Through(TorchAttacks("Square"))
    with pytest.raises(ValueError, match="attacks within a norm"):
        Through(PGD()).check(object())
    assert set(get_args(Mode)) == set(modes.MODES), "all names are known before a network is loaded"
    assert {name for name, mode in modes.MODES.items() if mode().approximate} == set(APPROXIMATE)
    assert Through(PGD(chunk=8)).chunk == 8
    assert Through(PGD()).chunk is None


@pytest.mark.parametrize(
    ("gradient", "reported"), [("bpda", True), ("adjoint", True), ("surrogate", False), (Adjoint(t_end=0.01), False)]
)
def test_statistics_of_another_process_are_left_out(gradient, reported):
    result = Through(PGD(steps=2, eot=2), gradient).search(defence(), *GIVEN)
    assert (result.broken is not None) is reported
    assert (result.curve is not None) is reported
    assert result.queries.tolist() == [6] * 4
    assert result.dead.tolist() == [0] * 4


def test_scores_belong_to_the_deployed_defence():
    """The evaluator scores the deployed process, whatever process the attack differentiates."""
    through = Attacked(Through(PGD(steps=2), Surrogate(2)), LINF, draws=3, keep_images=0)
    plain = Attacked(PGD(steps=2), LINF, draws=3, keep_images=0)
    classifier = defence()
    rows = through(classifier, (IMAGE, LABEL, INDEX))
    assert isinstance(classifier.purifier.gradient, Checkpoint)
    adv = Through(PGD(steps=2), Surrogate(2))(classifier, IMAGE, LABEL, LINF, Noise.of(0, INDEX).stream("attack"))
    noise = Noise.of(0, INDEX).stream("score")
    for b, row in enumerate(rows):
        draws = [int(classifier(adv, noise.draws(1, start=j))[b].argmax()) for j in range(3)]
        assert row.predictions == draws
    clean = [row.clean_predictions for row in rows]
    assert clean == [row.clean_predictions for row in plain(classifier, (IMAGE, LABEL, INDEX))]


def test_adversarial_images_are_independent_of_the_batch():
    attack, classifier = Through(PGD(steps=3, eot=2), "surrogate"), Padded(defence())
    together = attack(classifier, *GIVEN)
    parts = [attack(classifier, IMAGE[i], LABEL[i], LINF, GIVEN[3].rows(i)) for i in torch.arange(4).split(1)]
    assert torch.equal(torch.cat(parts), together)


SURROGATE = '{"class_path": "common.diffusion.Surrogate", "init_args": {"steps": 3, "solver": "ddim"}}'


@pytest.mark.parametrize(("written", "kind"), [('"adjoint"', str), (SURROGATE, Surrogate)])
def test_can_be_written_in_yaml(written, kind):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--attack", type=Attack)
    inner = '{"class_path": "common.robustness.PGD", "init_args": {"steps": 3}}'
    path = "common.robustness.Through"
    text = f'{{"class_path": "{path}", "init_args": {{"attack": {inner}, "gradient": {written}}}}}'
    attack = parser.instantiate(parser.parse_args(["--attack", text])).attack
    assert isinstance(attack.gradient, kind)
    assert attack.attack == PGD(steps=3)
