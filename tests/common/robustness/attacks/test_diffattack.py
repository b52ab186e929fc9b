"""DiffAttack: exact gradients of its loss, equality with the inner attack at weight 0, growth of the deviation."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from common.diffusion.composed import Chain, Resized
from common.diffusion.purifiers import DiffusionPurifier
from common.diffusion.schedules import VP
from common.exact import ExactDenoiser, GaussianMixture
from common.noise import Noise
from common.robustness.attacks.apgd import APGD
from common.robustness.attacks.attack import Attack, AttackResult
from common.robustness.attacks.diffattack import DiffAttack
from common.robustness.attacks.eot import EOTLoss
from common.robustness.attacks.known_noise import KnownNoise
from common.robustness.attacks.library import TorchAttacks
from common.robustness.attacks.pgd import PGD
from common.robustness.attacks.through import Through
from common.robustness.classifiers import NetworkClassifier, Purified
from common.robustness.losses import cross_entropy
from common.robustness.padding import Padded
from common.robustness.threats.norm_ball import ThreatModel
from common.robustness.voting import Voting

F64 = torch.float64
LINF = ThreatModel("inf", 0.1)
IMAGE = torch.rand(3, 1, 3, 3, dtype=F64, generator=torch.Generator().manual_seed(1))
LABEL = torch.tensor([0, 1, 2])
NOISE = Noise.of(3, torch.tensor([5, 2, 9]))


def purifier(gradient="checkpoint", steps=5, side=3, dtype=F64) -> DiffusionPurifier:
    means = torch.randn(5, 1, side, side, dtype=dtype, generator=torch.Generator().manual_seed(0)) / 2
    return DiffusionPurifier(ExactDenoiser(GaussianMixture(means, 0.3)), VP(), 0.2, steps, gradient=gradient)


def head(dtype=F64) -> NetworkClassifier:
    layer = nn.Linear(9, 3, dtype=dtype)
    layer.weight.data = torch.randn(3, 9, generator=torch.Generator().manual_seed(2), dtype=dtype)
    layer.bias.data.zero_()
    return NetworkClassifier(nn.Sequential(nn.Flatten(), layer))


def defence(dtype=F64, **settings) -> Purified:
    return Purified(purifier(dtype=dtype, **settings), head(dtype))


@dataclass(frozen=True)
class Once(Attack):
    """One gradient of two draws, returned as ``adv``."""

    loss: Callable = cross_entropy
    eot: int = 2
    chunk: int | None = None

    def search(self, classifier, image, label, threat, noise):
        estimate = EOTLoss(classifier, label, noise, self.eot, self.chunk)(image, self.loss)
        return AttackResult(estimate.gradient, estimate.loss)


def by_hand(classifier, x, draws, weight):
    """Reference: cross-entropy + weight deviation of each row, from a separate recording of the purification."""
    with classifier.purifier.recorded() as trajectories:
        logits = classifier(x, draws)
    return cross_entropy(logits, LABEL.repeat_interleave(2)) + weight * trajectories[0].deviation()


@pytest.mark.parametrize("chunk", [None, 1, 4])
@pytest.mark.parametrize("gradient", ["checkpoint", "full"])
def test_gradient_includes_the_deviation_loss(gradient, chunk):
    """Central differences, float64, of cross-entropy plus deviation, both draws averaged: error h^2, rounding / h."""
    classifier, weight, h = defence(gradient=gradient), 0.7, 1e-5
    attack = DiffAttack(Once(chunk=chunk), weight, times=None)
    result = attack.search(classifier, IMAGE, LABEL, LINF, NOISE)
    rows, draws = IMAGE.repeat_interleave(2, 0).requires_grad_(), NOISE.draws(2)
    expected = torch.zeros_like(IMAGE)
    for pixel in torch.eye(9, dtype=F64).view(9, 1, 3, 3):
        ahead, back = (by_hand(classifier, rows + s * h * pixel, draws, weight).detach() for s in (1, -1))
        expected += pixel * ((ahead - back) / (2 * h)).view(3, 2).mean(1)[:, None, None, None]
    torch.testing.assert_close(result.adv, expected, rtol=1e-6, atol=1e-7)
    plain = Once().search(classifier, IMAGE, LABEL, LINF, NOISE)
    assert torch.equal(result.loss, plain.loss), "points are ranked by the loss of the classification"
    assert (result.adv - plain.adv).abs().max() > 0.1 * plain.adv.abs().max()


@pytest.mark.parametrize("attack", [PGD(steps=4, eot=2, restarts=2), APGD(steps=4, eot=2), APGD(steps=3, loss="dlr")])
def test_weight_0_equals_the_inner_attack(attack):
    classifier = defence()
    result, plain = (each.search(classifier, IMAGE, LABEL, LINF, NOISE) for each in (DiffAttack(attack, 0.0), attack))
    for name in ("adv", "loss", "queries", "curve", "broken", "dead"):
        assert torch.equal(getattr(result, name), getattr(plain, name)), name
    other = DiffAttack(attack, 1.0)(classifier, IMAGE, LABEL, LINF, NOISE)
    assert not torch.equal(other, result.adv)


def test_attack_increases_the_deviation():
    """Deviation on fresh noise, 64 draws each; at a large weight the attack maximises the deviation alone."""
    classifier, deviations = defence(), []
    for attack in (PGD(steps=8, eot=4), DiffAttack(PGD(steps=8, eot=4), 1e3, None)):
        adv = attack(classifier, IMAGE, LABEL, LINF, NOISE.stream("attack")).repeat_interleave(64, 0).requires_grad_()
        with classifier.purifier.recorded() as trajectories:
            classifier(adv, NOISE.stream("score").draws(64))
        deviations.append(trajectories[0].deviation().detach().view(3, 64).mean(1))
    assert bool((deviations[1] > 1.03 * deviations[0]).all())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda c: Padded(c),
        lambda c: Voting(c, 4, "mean_logit"),
        lambda c: Padded(Voting(c, 3, "mean_logit")),
        lambda c: Voting(Padded(c, 25), 2, "mean_logit"),
        lambda c: Padded(KnownNoise(Voting(Padded(c), 3, "mean_logit"), NOISE)),
    ],
)
def test_padding_rows_and_votes_are_separated(wrap):
    """The gradient at a huge weight is that of the deviation, summed over the purifier's own rows."""
    classifier, eot, weight = wrap(defence()), 1, 1e9
    result = DiffAttack(Once(eot=eot), weight, None).search(classifier, IMAGE, LABEL, LINF, NOISE)
    for b in range(3):
        x = IMAGE[b : b + 1].clone().requires_grad_()
        (inner,) = (module for module in classifier.modules() if isinstance(module, DiffusionPurifier))
        with inner.recorded() as trajectories:
            classifier(x, NOISE.rows([b]).draws(1))  # as EOT of one draw
        rows = trajectories[0].deviation()
        votes = next((module.draws for module in classifier.modules() if isinstance(module, Voting)), 1)
        (expected,) = torch.autograd.grad(rows[:votes].mean(), x)
        torch.testing.assert_close(result.adv[b : b + 1] / weight, expected, rtol=1e-5, atol=1e-7)


def test_several_purifications_enter_with_their_mean():
    first, second = purifier(), purifier(steps=3, side=2)
    classifier = Purified(Chain([first, Resized(second, 2)]), head())
    result = DiffAttack(Once(eot=1), 1e9, None).search(classifier, IMAGE, LABEL, LINF, NOISE)
    x = IMAGE.clone().requires_grad_()
    with first.recorded() as one, second.recorded() as two:
        classifier(x, NOISE)
    mean = (one[0].deviation() + two[0].deviation()) / 2
    torch.testing.assert_close(result.adv / 1e9, torch.autograd.grad(mean.sum(), x)[0], rtol=1e-6, atol=1e-7)


def test_adversarial_images_are_independent_of_batch_and_chunks():
    classifier, image = Padded(defence(torch.float32)), IMAGE.float()
    together = DiffAttack(PGD(steps=3, eot=2))(classifier, image, LABEL, LINF, NOISE)
    for attack, sizes in ((PGD(steps=3, eot=2), [1, 2]), (PGD(steps=3, eot=2, chunk=2), [3])):
        parts = [
            DiffAttack(attack)(classifier, image[r], LABEL[r], LINF, NOISE.rows(r))
            for r in torch.arange(3).split(sizes)
        ]
        assert torch.equal(torch.cat(parts), together)


def test_hooks_and_recordings_are_removed():
    classifier = defence()
    hooks = dict(classifier._forward_pre_hooks)
    with pytest.raises(ZeroDivisionError):
        DiffAttack(PGD(steps=1, loss=lambda logits, label: 1 / 0))(classifier, IMAGE, LABEL, LINF, NOISE)
    assert classifier._forward_pre_hooks == hooks
    assert classifier.purifier._trajectories is None


def test_unsupported_classifiers_raise_before_the_attack():
    given = IMAGE, LABEL, LINF, NOISE
    with pytest.raises(ValueError, match="whose states it records; NetworkClassifier has none"):
        DiffAttack(PGD())(head(), *given)
    with pytest.raises(ValueError, match="BPDA does not reach the intermediate states"):
        DiffAttack(PGD())(defence(gradient="bpda"), *given)
    with pytest.raises(ValueError, match="Adjoint does not reach"):
        Through(DiffAttack(PGD()), "adjoint")(defence(), *given)
    weak = defence(gradient="bpda")
    exact = Through(DiffAttack(PGD(steps=2)), "checkpoint")(weak, *given)
    assert torch.equal(exact, DiffAttack(PGD(steps=2))(defence(), *given))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight": -1.0}, "weight must be a finite number >= 0"),
        ({"weight": float("inf")}, "weight must be a finite"),
        ({"times": 0}, "times must be an integer >= 1"),
        ({"attack": TorchAttacks("MIFGSM")}, "must have a loss, as PGD and APGD do; got TorchAttacks"),
        ({"attack": TorchAttacks("Square")}, "uses none"),
        ({"attack": APGD(loss="targeted_dlr")}, "loss must be one of"),
    ],
)
def test_invalid_settings_raise(settings, message):
    with pytest.raises(ValueError, match=message):
        DiffAttack(**{"attack": PGD()} | settings)
