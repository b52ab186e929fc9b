"""Global variables that functions of a user's parts read, and values set over cached properties, count."""

import functools
from functools import cached_property

import numpy as np
import pytest
import torch
from torch import nn

from common.records.fingerprint import identify
from common.robustness import Attacked, Classifier, FunctionAttack, Purified, ThreatModel
from tests.defences import head

SCALE = 1.0
SETTINGS = {"shift": 0.25, "steps": [1, 2]}
MEAN = torch.tensor([0.5])
NET = nn.Linear(2, 2)
LEVELS = np.array([0.0, 1.0])
ROUND = functools.partial(round, ndigits=1)
CALLS = 0
SEEN: list[int] = []
COUNTS = {"calls": 0}


def shifted(x):
    return x + SETTINGS["shift"]


def attack(classifier, image, label, threat, noise):
    return (shifted(image) * SCALE).clamp(0, 1)


class Scaled(Classifier):
    def __init__(self):
        super().__init__()
        self.inner = head()

    @property
    def levels(self):
        return [LEVELS, ROUND]

    def forward(self, image, noise=None):
        return self.inner(shifted(image) - MEAN) * self.inside()

    def inside(self):
        return sum(NET.weight.sum() for _ in range(1))


class Scaling(nn.Module):
    randomised = False

    def forward(self, image, noise=None):
        return attack(None, image, None, None, noise)


class Counting(Classifier):
    """State of calls: counted, noted, in a dictionary. Its constructor reads a global, whose result is described."""

    def __init__(self):
        super().__init__()
        self.scaled = bool(SCALE)

    def forward(self, image, noise=None):
        global CALLS
        CALLS += 1
        SEEN.append(CALLS)
        COUNTS["calls"] += 1
        return image.flatten(1)


PARTS = {
    "classifier": (Scaled, ["SETTINGS", "MEAN", "NET", "LEVELS", "ROUND"]),
    "purifier": (lambda: Purified(Scaling(), head()), ["SCALE", "SETTINGS"]),
    "attack": (lambda: FunctionAttack(attack), ["SCALE", "SETTINGS"]),
    "evaluator": (lambda: Attacked(attack, ThreatModel("inf", 0.1)), ["SCALE", "SETTINGS"]),
    "function": (lambda: [shifted], ["SETTINGS"]),
}
OTHERS = {
    "SCALE": [2.0, 1, "1.0"],
    "SETTINGS": [{"shift": 0.5, "steps": [1, 2]}, {"shift": 0.25, "steps": [1, 3]}],
    "MEAN": [torch.tensor([0.25]), torch.tensor([0.5], dtype=torch.float64)],
    "NET": [nn.Linear(2, 2), nn.Linear(3, 2), nn.Identity()],
    "LEVELS": [np.array([0.0, 2.0])],
    "ROUND": [functools.partial(round, ndigits=2)],
}


def identified(part):
    fingerprint, description = identify({"part": part})
    assert "undetermined" not in description
    return fingerprint


@pytest.mark.parametrize("name", PARTS)
def test_globals_that_a_function_reads_count(name, monkeypatch):
    make, names = PARTS[name]
    part = make()
    before = identified(part)
    for variable in names:
        for other in OTHERS[variable]:
            with monkeypatch.context() as patch:
                patch.setitem(globals(), variable, other)
                assert identified(part) != before, variable
        assert identified(part) == before


def test_globals_that_are_not_read_and_state_of_calls_do_not_count(monkeypatch):
    before = identified(Counting()), identified([shifted])
    Counting()(torch.rand(1, 1, 2, 2))
    monkeypatch.setitem(globals(), "SCALE", 5.0)
    assert (identified(Counting()), identified([shifted])) == before
    assert CALLS == COUNTS["calls"] == len(SEEN) == 1


class Cached(Classifier):
    def __init__(self):
        super().__init__()
        self.temperature = 2.0

    @cached_property
    def factor(self):
        return torch.full((20,), 1 / self.temperature)

    @cached_property
    def network(self):
        layer = nn.Linear(2, 2)
        layer.weight.data.fill_(1.0)
        layer.bias.data.fill_(0.0)
        return layer

    def forward(self, image, noise=None):
        return image.flatten(1)[:, :20] * self.factor


class Failing(Cached):
    @cached_property
    def factor(self):
        raise RuntimeError("set it")


@pytest.mark.parametrize("kind", [Cached, Failing])
def test_a_value_set_over_a_cached_property_counts(kind):
    plain, one, other = kind(), kind(), kind()
    one.factor, other.factor = torch.full((20,), 3.0), torch.full((20,), 4.0)
    assert len({identified(part) for part in (plain, one, other)}) == 3


def test_a_value_as_computed_does_not_count():
    used, plain = Cached(), Cached()
    assert torch.equal(used.factor, torch.full((20,), 0.5))
    assert used.network.weight.sum() == 4
    assert identified(used) == identified(plain)
    used.temperature = plain.temperature = 4.0  # the factor is still that of 2
    assert identified(used) != identified(plain)
