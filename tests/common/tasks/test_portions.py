"""Division of batches whose images cost more than seconds: rows come image by image, or few by few."""

import pytest
import torch

from common.robustness import PGD, Attacked, Certified, Clean, Smoothing
from common.tasks import portions
from common.tasks.portions import Portions


class Rows:
    rows = 16


def sizes(monkeypatch, evaluator, cost, images=40, batches=1):
    """Sizes of the portions of batches; ``cost(n)``: seconds of n images."""
    clock = [0.0]
    monkeypatch.setattr(portions.time, "monotonic", lambda: clock[0])
    found, divided = [], Portions(evaluator, Rows())
    for _ in range(batches):
        batch = (torch.zeros(images, 1, 2, 2), torch.zeros(images), torch.arange(images))
        seen = []
        for _, _, index in divided.of(batch):
            seen += index.tolist()
            found.append(len(index))
            clock[0] += cost(len(index))
        assert seen == list(range(images))
    return found


CERTIFIED = Certified(Smoothing(0.25, 10, 20, 0.1, num_classes=2))
ATTACKED = Attacked(PGD(steps=1))


def test_slow_certificates_come_one_by_one(monkeypatch):
    """Two at a time are tried once, and are no cheaper."""
    assert sizes(monkeypatch, CERTIFIED, lambda n: 10.0 * n, images=6) == [1, 2, 1, 1, 1]


def test_quick_images_are_not_divided_after_the_first_portion(monkeypatch):
    assert sizes(monkeypatch, CERTIFIED, lambda n: 0.5 * n, batches=2) == [1, 39, 40]
    assert sizes(monkeypatch, ATTACKED, lambda n: 0.5 * n, batches=2) == [16, 24, 40]


@pytest.mark.parametrize(
    ("cost", "expected"),
    [
        (lambda n: 10.0 * n, [16, 32, 16, 16, 16, 4]),  # a processor that is busy with 16
        (lambda n: 200.0 + 2.5 * n, [16, 32, 52]),  # one that takes any number at once: soon below SLOW
        (lambda n: 20.0 * max(n, 32), [16, 32, 52]),
    ],
)
def test_portions_of_an_attack_grow_while_that_pays(monkeypatch, cost, expected):
    assert sizes(monkeypatch, ATTACKED, cost, images=100) == expected


def test_other_evaluators_take_whole_batches(monkeypatch):
    assert sizes(monkeypatch, Clean(), lambda n: 100.0 * n) == [40]
