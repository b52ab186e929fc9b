"""Attacks that a killed process leaves between two restarts: the next one goes on, with the same result."""

import dataclasses

import pytest
import torch
from torch import nn

from common.noise import Noise
from common.records import notes as module
from common.records.notes import Notes, keeping
from common.records.schema import Source
from common.robustness import APGD, PGD, Classifier, DiffHammer, NetworkClassifier, Purified, ThreatModel

BALL = ThreatModel("inf", 0.1)
IMAGES = torch.rand(3, 1, 2, 2, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2])
NOISE = Noise.of(3, torch.tensor([7, 4, 9]))
ATTACKS = {
    "PGD": PGD(steps=4, restarts=4, eot=2),
    "APGD": APGD(steps=4, restarts=4, eot=2),
    "APGD towards targets": APGD(steps=4, restarts=2, loss="targeted_dlr", targets=2),
}


class Killed(Exception):
    """End of a process."""


class Counting(Classifier):
    """Smooth and random; it counts its rows, and ends at the ``last`` of them."""

    randomised = True

    def __init__(self, last=10**9, classes=5):
        super().__init__()
        self.linear, self.rows, self.last = nn.Linear(4, classes, bias=False), 0, last
        with torch.no_grad():
            self.linear.weight.copy_(torch.arange(4.0 * classes).sin().view(classes, 4))

    def forward(self, image, noise=None):
        self.rows += len(image)
        if self.rows >= self.last:
            raise Killed
        return self.linear(image.flatten(1) + 0.3 * noise.normal(0, (4,)))


def attacked(attack, path, last=10**9, chosen=(0, 1, 2)):
    """Result of the attack on the images ``chosen``, with their notes in a folder; and the rows of the classifier."""
    rows, subject = torch.tensor(chosen), Counting(last)
    noise = NOISE.rows(rows)
    with keeping(Notes(path, "print", Source("attacked"), noise.index.tolist())):
        result = attack.search(subject, IMAGES[rows], LABELS[rows], BALL, noise)
    return result, subject.rows


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_goes_on_after_its_last_restart(tmp_path, monkeypatch, name):
    """All images were in one batch, and come one by one and two at a time: each has its own state."""
    expected, total = attacked(ATTACKS[name], tmp_path)
    monkeypatch.setattr(module, "INTERVAL", 0.0)
    for chosen in ((0, 1, 2), (1,), (2, 0)):
        with pytest.raises(Killed):
            attacked(ATTACKS[name], tmp_path, last=round(0.9 * total))
        assert len(list(tmp_path.iterdir())) == 3
        result, rows = attacked(ATTACKS[name], tmp_path, chosen=chosen)
        assert rows <= (0.45 if "targets" in name else 0.4) * total * len(chosen) / 3
        for field in dataclasses.fields(result):
            found, whole = getattr(result, field.name), getattr(expected, field.name)
            assert torch.equal(found, whole[list(chosen)]), field.name
        assert len(list(tmp_path.iterdir())) == 3 - len(chosen)
        for file in tmp_path.iterdir():
            file.unlink()


def test_a_damaged_state_begins_anew(tmp_path, monkeypatch):
    """As one of images of another size."""
    expected, total = attacked(ATTACKS["PGD"], tmp_path)
    monkeypatch.setattr(module, "INTERVAL", 0.0)
    with pytest.raises(Killed):
        attacked(ATTACKS["PGD"], tmp_path, last=round(0.9 * total))
    get = Notes.get
    for change in ({"adv": "AAAA"}, {"_done": "?"}, {"climbs": "2"}, {"loss": None}):
        monkeypatch.setattr(Notes, "get", lambda *args, change=change: (get(*args) or {}) | change)
        monkeypatch.setattr(Notes, "remove", lambda self: None)
        result, rows = attacked(ATTACKS["PGD"], tmp_path)
        assert rows == total and torch.equal(result.adv, expected.adv)


class Moved(nn.Module):
    """A purifier that shifts its images at random, and counts its calls."""

    calls = 0

    def forward(self, image, noise=None):
        self.calls += 1
        return image + 0.01 * noise.normal(0, image.shape[1:])


def test_grafts_before_a_kill_count(tmp_path, monkeypatch):
    """Four steps with a gradient are four purifications more, also if an earlier process took them."""
    monkeypatch.setattr(module, "INTERVAL", 0.0)
    attack = DiffHammer(PGD(steps=4, eot=3), graft=True)

    def run(killed=False):
        linear = nn.Sequential(nn.Flatten(), nn.Linear(4, 5, bias=False))
        nn.init.constant_(linear[1].weight, 0.5)
        linear[1].weight.data[0] = -0.5
        purifier = Moved()
        with keeping(Notes(tmp_path, "print", Source("attacked"), NOISE.index.tolist())):
            found = attack.search(Purified(purifier, NetworkClassifier(linear)), IMAGES, LABELS, BALL, NOISE)
            if killed:
                raise Killed  # after the attack, before its row
        return found, purifier.calls

    expected, calls = run()
    with pytest.raises(Killed):
        run(killed=True)
    found, again = run()
    assert again < calls and torch.equal(found.adv, expected.adv)
    assert found.queries.tolist() == expected.queries.tolist() == [5 * 3 + 4] * 3
