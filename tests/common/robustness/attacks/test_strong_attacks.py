"""APGD, Square and AutoAttack: known optima, independence of the batch, comparison with torchattacks."""

import math

import pytest
import torch
from torch import nn

from common.noise import Noise
from common.robustness.attacks.apgd import APGD
from common.robustness.attacks.auto_attack import AutoAttack
from common.robustness.attacks.library import TorchAttacks
from common.robustness.attacks.square import Square
from common.robustness.classifiers import Classifier, NetworkClassifier
from common.robustness.threats.norm_ball import ThreatModel
from tests.common.robustness.attacks.test_pgd import largest_gain

NORMS = [(math.inf, 0.1), (2, 0.4), (1, 1.5)]


def rows(n, seed=0):
    return Noise.of(seed, torch.arange(n))


def linear(classes=2, dimension=48, dtype=torch.float64, seed=0):
    weight = torch.randn(classes, dimension, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    layer = nn.Linear(dimension, classes, bias=False, dtype=dtype)
    layer.weight.data.copy_(weight)
    return NetworkClassifier(nn.Sequential(nn.Flatten(), layer)), weight


def images(box, n=8, dtype=torch.float64):
    image = torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(1), dtype=dtype)
    return 0.45 + 0.1 * image if box == "inactive" else image.round(decimals=1)


def shares(attack, norm, eps, box, dtype=torch.float64):
    """Gain of the attack relative to the largest possible gain, per image."""
    classifier, weight = linear(dtype=dtype)
    g, image, threat = (weight[1] - weight[0]).double(), images(box, dtype=dtype), ThreatModel(norm, eps)
    adv = attack(classifier, image, torch.zeros(len(image), dtype=torch.int64), threat, rows(len(image)))
    assert bool(threat.check(image, adv).all())
    gains = [float(d @ g) for d in (adv.double() - image.double()).flatten(1)]
    best = [largest_gain(g.numpy(), x.double().numpy(), threat.norm, eps) for x in image.flatten(1)]
    return [gain / top for gain, top in zip(gains, best, strict=True)]


@pytest.mark.parametrize(("norm", "eps"), NORMS)
@pytest.mark.parametrize("box", ["inactive", "active"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_apgd_solves_linear_models_with_its_defaults(norm, eps, box, dtype):
    assert all(0.99 <= share <= 1 + 1e-4 for share in shares(APGD(loss="margin"), norm, eps, box, dtype))


@pytest.mark.parametrize(("norm", "eps"), NORMS)
def test_square_reaches_most_of_the_optimum(norm, eps):
    """1,000 queries; the random search ends near the corners of the L-inf ball, less near those of the other balls."""
    floor = 0.9 if norm == math.inf else 0.5
    assert min(shares(Square(queries=1000), norm, eps, "active")) > floor


@pytest.mark.parametrize(
    "attack", [APGD(steps=6, eot=3), APGD(steps=4, eot=2, loss="targeted_margin", targets=2), Square(30, eot=3)]
)
def test_results_are_independent_of_the_batch(attack):
    class Shifted(Classifier):
        randomised = True

        def forward(self, image, noise=None):
            u = image.flatten(1)[:, :3] + 0.3 * noise.normal(0, (3,), image.dtype)
            return torch.sin(9 * u)

    image, label = images("active", 5), torch.tensor([0, 1, 2, 0, 1])
    threat = ThreatModel("inf", 0.1)
    together = attack(Shifted(), image, label, threat, rows(5))
    parts = [
        attack(Shifted(), image[i : i + 1], label[i : i + 1], threat, rows(5).rows(slice(i, i + 1))) for i in range(5)
    ]
    torch.testing.assert_close(together, torch.cat(parts), rtol=0, atol=0)
    assert not torch.equal(together, image)


@pytest.mark.parametrize("eps", [0.06, 0.1])
def test_apgd_is_as_strong_as_the_parts_of_torchattacks(digits_network, eps):
    """Equal steps and radius, the same images, one draw each; at least as many adversarial examples by each loss."""
    pytest.importorskip("torchattacks")
    classifier, image, label = digits_network
    threat = ThreatModel("inf", eps)

    def broken(attack):
        adv = attack(classifier, image, label, threat, rows(len(image)))
        return int((classifier(adv).argmax(1) != label).sum())

    for loss, name in (("cross_entropy", "ce"), ("dlr", "dlr")):
        theirs = broken(TorchAttacks("APGD", {"steps": 20, "loss": name}))
        assert broken(APGD(steps=20, loss=loss)) >= theirs
    ours = broken(APGD(steps=20, loss="targeted_dlr", targets=9))
    assert ours >= broken(TorchAttacks("APGDT", {"steps": 20}))


def test_autoattack_lists_its_parts_and_is_as_strong_as_each(digits_network):
    classifier, image, label = digits_network
    threat = ThreatModel("inf", 0.08)
    attack = AutoAttack(steps=10, queries=50, implementation="assembled")
    assert "10" in str(attack) and "50" in str(attack) and "APGD" in str(attack)
    result = attack.search(classifier, image, label, threat, rows(len(image)))
    assert bool(threat.check(image, result.adv).all())
    wrong = classifier(result.adv).argmax(1) != label
    assert torch.equal(result.broken, wrong)
    part = APGD(steps=10, early_stop=True)(classifier, image, label, threat, rows(len(image)))
    assert int(wrong.sum()) >= int((classifier(part).argmax(1) != label).sum())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: APGD(eot=0), "eot must be an integer >= 1"),
        (lambda: APGD(loss="hinge"), "loss must be one of"),
        (lambda: APGD(targets=3), "targeted loss"),
        (lambda: Square(queries=0), "queries must be an integer >= 1"),
        (lambda: Square(window=0), "window, .* > 0 and <= 1"),
        (lambda: TorchAttacks("PGD", {"steps": 0}), "steps must be an integer >= 1"),
        (lambda: AutoAttack(version="plus"), "version must be"),
        (lambda: AutoAttack(steps=0), "steps must be an integer >= 1"),
    ],
)
def test_settings_are_checked(make, message):
    with pytest.raises(ValueError, match=message):
        make()
