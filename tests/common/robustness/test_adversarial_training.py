"""Adversarial training: inner maximum against known optima, losses against their formulas, trained networks."""

import math

import pytest
import torch
from torch import nn

from common.noise import Noise
from common.robustness.adversarial_training import InnerMaximum, PGDTraining, TradesTraining
from common.robustness.attacks.pgd import PGD
from common.robustness.classifiers import NetworkClassifier
from common.robustness.threats.norm_ball import ThreatModel
from common.robustness.threats.spatial import SpatialThreat
from common.tasks.classifier import ClassifierTask

SHAPE, ROWS, CLASSES = (3, 16, 16), 8, 3
BALLS = [("inf", 8 / 255), (2, 0.5), (1, 8.0)]


@pytest.fixture
def image():
    return torch.rand(ROWS, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture
def noise():
    return Noise.of(3, torch.arange(ROWS))


def linear(classes=CLASSES):
    layer = nn.Linear(math.prod(SHAPE), classes).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return NetworkClassifier(nn.Sequential(nn.Flatten(), layer))


def highest(image, w, threat):
    """max <w, δ> over ||δ|| <= eps and x + δ in [0,1], (B,), by the optimality conditions.

    L-inf: the corner. L1: a knapsack, largest |w| first. L2: δ = min(λ |w|, room), λ by bisection.
    """
    x, w = image.flatten(1), w.flatten()
    worth, room = w.abs(), torch.where(w > 0, 1 - x, x)
    if threat.norm == math.inf:
        return (worth * room.clamp(max=threat.eps)).sum(1)
    if threat.norm == 1:
        order = worth.argsort(descending=True)
        room = room[:, order]
        left = (threat.eps - (room.cumsum(1) - room)).clamp(min=0)
        return (worth[order] * torch.minimum(room, left)).sum(1)
    low, high = torch.zeros(len(x), 1, dtype=x.dtype), torch.full((len(x), 1), 1e6, dtype=x.dtype)
    for _ in range(100):
        middle = (low + high) / 2
        inside = torch.minimum(middle * worth, room).norm(dim=1, keepdim=True) <= threat.eps
        low, high = torch.where(inside, middle, low), torch.where(inside, high, middle)
    return (torch.minimum(low * worth, room) * worth).sum(1)


@pytest.mark.parametrize("start", ["near", "random"])
@pytest.mark.parametrize(("norm", "eps"), BALLS)
def test_inner_maximum_of_a_linear_loss(norm, eps, start, image, noise):
    """In every norm and with pixels at the edge of the box; never more than the optimum, and 99 % of it at least: the
    box takes part of a step (measured: 99.6 % over 3x32x32 pixels)."""
    image = torch.where(image < 0.1, 0.0, torch.where(image > 0.9, 1.0, image))
    threat, network = ThreatModel(norm, eps), nn.Identity()
    w = torch.randn(SHAPE, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    adv = InnerMaximum(threat, start=start)(network, lambda at: (at * w).flatten(1).sum(1), image, noise)
    assert threat.check(image, adv).all()
    share = ((adv - image) * w).flatten(1).sum(1) / highest(image, w, threat)
    assert share.max() <= 1 + 1e-6
    assert share.min() > 0.99


@pytest.mark.parametrize(("norm", "eps"), BALLS)
def test_pgd_training_loss_is_the_adversarial_cross_entropy(norm, eps, image, noise):
    """Two classes: the margin is linear, so the worst loss is log(1 + exp(m + max <w, δ>)), reached to one per cent of
    the change in the margin."""
    threat, classifier = ThreatModel(norm, eps), linear(2)
    label = torch.arange(ROWS) % 2
    loss, logits = PGDTraining(threat)(classifier, image, label, noise)
    layer = classifier.network[1]
    way = layer.weight[1] - layer.weight[0]
    clean = classifier(image)
    rise = torch.stack([highest(image, sign * way, threat) for sign in (1, -1)], 1)[torch.arange(ROWS), label]
    margin = torch.where(label == 0, 1, -1) * (clean[:, 1] - clean[:, 0])
    worst = nn.functional.softplus(margin + rise)
    assert (loss <= worst + 1e-9).all()
    assert (loss >= nn.functional.softplus(margin + 0.99 * rise)).all()
    torch.testing.assert_close(nn.functional.cross_entropy(logits, label, reduction="none"), loss)


def test_trades_matches_its_formula(image, noise, monkeypatch):
    """CE(p(x), y) + 4 KL(p(x) || p(x + δ)) with a given δ, and its gradient flows through both images."""
    classifier, label, delta = linear(), torch.arange(ROWS) % CLASSES, 0.02
    objective = TradesTraining(ThreatModel("inf", 0.1), weight=4.0)
    monkeypatch.setattr(objective, "inner", lambda network, loss, image, noise: image + delta)
    loss, logits = objective(classifier, image, label, noise)
    p, q = classifier(image).softmax(1), classifier(image + delta).softmax(1)
    by_hand = -p[torch.arange(ROWS), label].log() + 4 * (p * (p / q).log()).sum(1)
    torch.testing.assert_close(loss, by_hand)
    assert torch.equal(logits, classifier(image))
    weight = classifier.network[1].weight
    (result,), (expected,) = (torch.autograd.grad(value.sum(), weight) for value in (loss, by_hand))
    torch.testing.assert_close(result, expected)


def test_inner_loss_selects_the_maximised_loss(image, noise):
    """On average, the maximised loss rises more than under maximisation of the other."""
    classifier, label, result, adversarial = linear(), torch.arange(ROWS) % CLASSES, {}, []
    classifier.register_forward_hook(lambda _, arguments, logits: adversarial.append(logits.detach()))
    for inner in ("kl", "cross_entropy"):
        objective = TradesTraining(ThreatModel("inf", 0.05), weight=1.0, inner=inner)
        loss, logits = objective(classifier, image, label, noise)
        divergence = loss - nn.functional.cross_entropy(logits, label, reduction="none")
        result[inner] = (divergence.mean().item(), nn.functional.cross_entropy(adversarial[-1], label).item())
    assert result["kl"][0] > result["cross_entropy"][0] + 1e-3
    assert result["cross_entropy"][1] > result["kl"][1] + 1e-3


class Mode(nn.Module):
    """Stores training mode and trainability at each call."""

    def __init__(self):
        super().__init__()
        self.layer, self.noises = nn.Linear(math.prod(SHAPE), CLASSES).double(), []

    def forward(self, image):
        self.noises.append((self.training, self.layer.weight.requires_grad))
        return self.layer(image.flatten(1))


@pytest.mark.parametrize(("kind", "last"), [(PGDTraining, 1), (TradesTraining, 2)])
def test_inner_maximisation_uses_evaluation_mode(kind, last, image, noise):
    body = Mode().train()
    kind(ThreatModel("inf", 0.1), steps=3)(NetworkClassifier(body), image, torch.zeros(ROWS, dtype=torch.int64), noise)
    assert set(body.noises[:-last]) == {(False, False)}
    assert set(body.noises[-last:]) == {(True, True)}


@pytest.mark.parametrize("kind", [PGDTraining, TradesTraining])
def test_adversarial_training_increases_robust_accuracy(kind):
    """Two classes differ in a strong pixel that eps cannot flip, and in 63 weak ones that it can: plain training uses
    all of them and is broken, adversarial training uses the strong one."""
    generator, threat = torch.Generator().manual_seed(0), ThreatModel("inf", 0.1)
    label = torch.arange(128) % 2
    sign = (2.0 * label - 1)[:, None]
    image = (0.5 + 0.08 * sign + 0.02 * torch.randn(128, 64, generator=generator)).clamp(0, 1)
    image[:, 0] = 0.5 + 0.3 * sign[:, 0]
    image = image.view(-1, 1, 8, 8)

    def accuracy(objective):
        classifier = NetworkClassifier(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), mean=[0.5], std=[1.0])
        with torch.no_grad():
            for parameter in classifier.parameters():
                parameter.zero_()
        task = ClassifierTask(classifier, objective=objective, num_classes=2)
        adam = torch.optim.Adam(classifier.parameters(), 0.1)
        for epoch in range(60):
            noise = Noise(0, torch.arange(128), torch.full((128,), epoch))
            if objective is None:
                loss = nn.functional.cross_entropy(classifier(task.prepare(image, noise)), label)
            else:
                loss = objective(classifier, image, label, noise).loss.mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
        adv = PGD(steps=10)(classifier, image, label, threat, Noise.of(1, torch.arange(128)))
        return [(classifier(x).argmax(1) == label).float().mean().item() for x in (image, adv)]

    clean, robust = accuracy(kind(threat, steps=5))
    assert clean == 1.0 and robust > 0.95
    clean, robust = accuracy(None)
    assert clean == 1.0 and robust < 0.05


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda threat: InnerMaximum(threat, steps=0), "steps .* must be an integer >= 1"),
        (lambda threat: InnerMaximum(threat, step_size=0.0), "step_size must be above 0, in pixel units; got 0.0"),
        (lambda threat: InnerMaximum(threat, step_size=math.inf), "step_size must be above 0, in pixel units; got inf"),
        (lambda threat: InnerMaximum(threat, steps=math.nan), "steps .* must be an integer >= 1; got nan"),
        (lambda threat: PGDTraining(SpatialThreat(0.1)), "adversarial training attacks within a norm"),
        (lambda threat: TradesTraining("inf"), "adversarial training attacks within a norm"),
        (lambda threat: TradesTraining(threat, weight=math.nan), "weight must be a finite number >= 0"),
        (lambda threat: InnerMaximum(threat, start="far"), "start must be one of near, random; got 'far'"),
        (lambda threat: TradesTraining(threat, weight=-1.0), "weight must be a finite number >= 0"),
        (lambda threat: TradesTraining(threat, inner="margin"), "inner must be one of kl, cross_entropy"),
        (lambda threat: ClassifierTask(linear(), noise_sigma=0.1, objective=PGDTraining(threat)), "takes clean images"),
        (lambda threat: ClassifierTask(linear(), objective=PGDTraining(threat), val_steps=-1), "val_steps"),
    ],
)
def test_invalid_settings_raise(make, message):
    with pytest.raises(ValueError, match=message):
        make(ThreatModel("inf", 0.1))
