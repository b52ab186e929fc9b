"""A function as an attack: its gradients, its arguments."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from common.checks import deferred
from common.noise import Noise
from common.robustness import Attacked, FunctionAttack, NetworkClassifier, Purified, ThreatModel
from common.robustness.attacks.function_attack import as_attack


def gradient_sign(classifier, image, label, threat, noise):
    """FGSM as a first user writes it, without a word about gradients."""
    x = image.clone().requires_grad_()
    cross_entropy(classifier(x, noise), label).backward()
    return threat.project(image, image + threat.eps * x.grad.sign())


def linear():
    torch.manual_seed(0)
    return NetworkClassifier(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3)))


def test_a_function_has_gradients_where_an_evaluator_runs_without():
    classifier, image, label = linear(), torch.rand(8, 3, 2, 2), torch.arange(8) % 3
    evaluator = Attacked(FunctionAttack(gradient_sign), ThreatModel("inf", 0.3), draws=1)
    with torch.no_grad():
        rows = evaluator(classifier, (image, label, torch.arange(8)))
    assert all(row.distance == pytest.approx(0.3, abs=1e-5) for row in rows)
    assert all(parameter.grad is None for parameter in classifier.parameters())


@pytest.mark.parametrize(
    "function", [lambda model, image, label: image, lambda: None, lambda a, b, c, d, e, f: b, lambda *, noise: noise]
)
def test_a_function_of_other_arguments_is_refused(function):
    with pytest.raises(
        ValueError, match=r"function \(classifier, image, label, threat, noise\) -> images; got one that"
    ):
        as_attack(function)


@pytest.mark.parametrize("function", [lambda *all: all[1], lambda a, b, c, d, e, f=0: b])
def test_a_function_that_takes_five_arguments_is_an_attack(function):
    image = torch.rand(2, 3, 2, 2)
    found = as_attack(function)(
        linear(), image, torch.tensor([0, 1]), ThreatModel("inf", 0.3), Noise.of(0, torch.arange(2))
    )
    assert torch.equal(found, image)


@pytest.mark.parametrize("waits", [False, True])
def test_a_function_may_handle_the_refusal_of_a_defence(monkeypatch, waits):
    """Also on a device, where the values of other attacks are looked at when they end."""
    monkeypatch.setattr(deferred, "has_to_wait", lambda values: waits)

    def careful(classifier, image, label, threat, noise):
        with pytest.raises(ValueError, match="finite"):
            classifier(image + 0.1, noise)
        return image

    def purifier(image, noise):
        return torch.where(image > 0.9, torch.nan, image)

    classifier = Purified(Deterministic(purifier), linear())
    rows = Attacked(careful, ThreatModel("inf", 0.1), draws=1)(
        classifier, (torch.full((2, 3, 2, 2), 0.85), torch.tensor([0, 1]), torch.arange(2))
    )
    assert len(rows) == 2


class Deterministic(torch.nn.Module):
    """A function as a purifier without noise."""

    randomised = False

    def __init__(self, function):
        super().__init__()
        self.forward = function
