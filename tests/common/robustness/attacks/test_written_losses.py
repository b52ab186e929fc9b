"""A loss from elsewhere that writes into logits, labels or targets: the attack and its statistics are those without."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from common.noise import Noise
from common.robustness import APGD, PGD, Attacked, NetworkClassifier, ThreatModel
from common.robustness.attacks.eot import EOTLoss

IMAGE = torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(0))
INDEX = torch.arange(12)


def defence():
    torch.manual_seed(1)
    return NetworkClassifier(nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)).eval())


def confident(logits, label):
    return cross_entropy(lowered(logits.clone(), label), label, reduction="none")


def lowered(logits, label):
    logits[torch.arange(len(logits)), label] -= 2.0
    return logits


def confident_in_place(logits, label):
    return cross_entropy(lowered(logits, label), label, reduction="none")


def clears_labels(logits, label):
    values = confident(logits, label.clone())
    label.zero_()
    return values


def through_data(logits, label):
    values = confident(logits, label)
    logits.data.zero_()
    return values


WRITING = [confident_in_place, clears_labels, through_data]


def rows(attack):
    classifier, ball = defence(), ThreatModel("inf", 0.5)
    label = classifier(IMAGE).argmax(1).detach()
    found = Attacked(attack, ball, name="a", keep_images=0)(classifier, (IMAGE.clone(), label, INDEX))
    return [(row.predictions, row.distance, row.broken, row.curve) for row in found]


@pytest.mark.parametrize("loss", WRITING)
@pytest.mark.parametrize("attack", [PGD, APGD])
@pytest.mark.parametrize("early_stop", [False, True])
def test_an_attack_with_a_writing_loss_is_the_attack_with_the_plain_one(attack, loss, early_stop):
    options = {"steps": 8, "early_stop": early_stop}
    assert rows(attack(loss=loss, **options)) == rows(attack(loss=confident, **options))


@pytest.mark.parametrize("loss", WRITING)
def test_estimates_hold_the_logits_and_labels_of_the_classifier(loss):
    classifier = defence()
    label = classifier(IMAGE).argmax(1).detach()
    before = label.clone()
    estimate = EOTLoss(classifier, label, Noise.of(0, INDEX), 1)(IMAGE, loss)
    expected = EOTLoss(classifier, before, Noise.of(0, INDEX), 1)(IMAGE, confident)
    assert torch.equal(label, before) and bool((estimate.accuracy == 1).all())
    for name in ("loss", "gradient", "accuracy", "logits", "margin"):
        assert torch.equal(getattr(estimate, name), getattr(expected, name))


def test_a_targeted_loss_may_write_into_its_target():
    def targeted(logits, label, target):
        values = logits.gather(1, target[:, None].clone()).squeeze(1)
        logits.data.zero_(), label.zero_(), target.zero_()
        return values

    classifier, target = defence(), INDEX % 3
    label = classifier(IMAGE).argmax(1).detach()
    estimate = EOTLoss(classifier, label, Noise.of(0, INDEX), 1)(IMAGE, targeted, target=target)
    assert torch.equal(target, INDEX % 3) and bool((estimate.accuracy == 1).all())


@pytest.mark.parametrize("reduced", [lambda values: values.mean(), lambda values: values[:-1], lambda values: 1.0])
def test_a_loss_without_a_value_per_row_is_refused(reduced):
    with pytest.raises(ValueError, match=r"loss must return floats of shape \(12,\), one per row of logits; got"):
        rows(PGD(steps=2, loss=lambda logits, label: reduced(confident(logits, label))))
