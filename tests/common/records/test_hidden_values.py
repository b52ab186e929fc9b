"""Values that decide numbers count wherever a part hides them: containers, methods, subclasses, pickling, order."""

import collections
import enum
import functools
import types
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from common.records.fingerprint import identify
from common.robustness import PGD, Attacked, NetworkClassifier, ThreatModel


class Holder(nn.Module):
    def __init__(self, held):
        super().__init__()
        self.held = held

    def forward(self, x):
        return x


class Through(nn.Module):
    """Delegates to a bound method."""

    def __init__(self, held):
        super().__init__()
        self.forward = held


@dataclass
class Pair:
    first: Any
    second: int = 0


class Slotted:
    __slots__ = ("held",)

    def __init__(self, held):
        self.held = held


def layer(seed):
    torch.manual_seed(seed)
    return nn.Linear(2, 2)


class Named(nn.Linear):
    """A layer whose identity says nothing about its weights."""

    def identity(self):
        return {"width": 2}


def named(seed):
    torch.manual_seed(seed)
    return Named(2, 2)


def fingerprint(held):
    """Of a classifier with a network that holds ``held``."""
    return identify({"classifier": NetworkClassifier(Holder(held))})[0]


def undetermined(held):
    return identify({"classifier": NetworkClassifier(Holder(held))})[1].get("undetermined", [])


WEIGHTS = {
    "list": lambda seed: [layer(seed)],
    "list of lists": lambda seed: [[0, layer(seed)]],
    "tuple": lambda seed: (layer(seed),),
    "dictionary": lambda seed: {"a": layer(seed)},
    "dictionary of numbers": lambda seed: {3: layer(seed)},
    "dataclass": lambda seed: Pair(layer(seed)),
    "slot": lambda seed: Slotted(layer(seed)),
    "partial": lambda seed: functools.partial(F.linear, layer(seed)),
    "bound method": lambda seed: layer(seed).forward,
    "bound method of a method's object": lambda seed: Holder([layer(seed)]).forward,
    "layers inside": lambda seed: [nn.Sequential(nn.ReLU(), layer(seed))],
    "with an identity": lambda seed: [named(seed)],
    "inside a module with one": lambda seed: [nn.Sequential(named(seed))],
    "a parameter": lambda seed: [layer(seed).weight],
    "in a namespace": lambda seed: types.SimpleNamespace(net=layer(seed)),
}


@pytest.mark.parametrize("make", WEIGHTS.values(), ids=WEIGHTS)
def test_weights_that_no_state_dict_holds_count(make):
    assert fingerprint(make(0)) == fingerprint(make(0)) != fingerprint(make(1))
    assert not undetermined(make(0))
    attacks = [Attacked(PGD(), ThreatModel("inf", 0.1)) for _ in range(2)]
    for seed, attack in enumerate(attacks):
        vars(attack.attack)["surrogates"] = make(seed)
    assert identify({"evaluators": attacks[:1]}) != identify({"evaluators": attacks[1:]})


def test_weights_of_a_bound_forward_count():
    first, second = (NetworkClassifier(Through(layer(seed).forward)) for seed in (0, 1))
    assert identify({"part": first}) != identify({"part": second})


class Mute(Holder):
    """Its state dict is empty."""

    def __init__(self, value):
        super().__init__(0)
        self.weight = nn.Parameter(torch.full((3,), value))

    def state_dict(self, *args, **kwargs):
        return {}


class Constant(Mute):
    """Its state dict holds other values, and takes no arguments."""

    def state_dict(self):
        return {"weight": torch.zeros(3)}


def popped(value):
    part = Mute(value)
    part.state_dict = types.MethodType(nn.Module.state_dict, part)
    part._register_state_dict_hook(pop_weight)
    return part


def pop_weight(module, state, prefix, local):
    state.pop(f"{prefix}weight")


def wrapped(value):
    return NetworkClassifier(Mute(value))


@pytest.mark.parametrize("make", [Mute, Constant, popped, wrapped, lambda value: nn.Sequential(popped(value))])
def test_weights_that_a_state_dict_hides_count(make):
    first, again, second = (identify({"part": make(value)})[0] for value in (1.0, 1.0, 2.0))
    assert first == again != second


def factory(k):
    class Made(nn.Module):
        def forward(self, x):
            return k * x

    return Made


def by_default(k):
    class Made(nn.Module):
        def forward(self, x, k=k):
            return k * x

    return Made


def by_property(k):
    class Made(nn.Module):
        @property
        def gain(self):
            return k

        @staticmethod
        def scale(x, *, by=k):
            return by * x

    return Made


def by_attribute(k):
    class Made(nn.Module):
        gain = k

    return Made


def derived(k):
    class Made(factory(k)):
        def forward(self, x):
            return super().forward(x)

    return Made


@pytest.mark.parametrize("make", [factory, by_default, by_property, by_attribute, derived])
def test_values_of_the_methods_of_a_made_class_count(make):
    for part in (lambda k: NetworkClassifier(make(k)()), lambda k: NetworkClassifier(Holder(make(k)))):
        one, again, other = (identify({"part": part(k)}) for k in (1, 1, 2))
        assert one == again != other
        assert "undetermined" not in one[1]


def scaling(k):
    def scaled(self, x):
        return k * x

    return scaled


@pytest.mark.parametrize("method", ["forward", "__call__", "helper"])
def test_a_function_in_the_place_of_a_method_counts(monkeypatch, method):
    before = fingerprint(0)
    found = []
    for k in (1, 2):
        monkeypatch.setattr(Holder, method, scaling(k), raising=False)
        found.append(fingerprint(0))
    monkeypatch.setattr(Holder, method, pop_weight, raising=False)
    assert len({before, *found, fingerprint(0)}) == 4
    monkeypatch.setattr(Holder, method, lambda self, x: method, raising=False)
    assert [place for place in undetermined(0) if "a lambda" in place]


class Halved(nn.Module):
    """Methods of every kind, all of which are code."""

    @staticmethod
    def half(x):
        return x / 2

    @torch.no_grad()
    def forward(self, x):
        return self.half(x)

    third = lambda self, x: x / 3  # noqa: E731
    again = forward


def test_methods_are_code():
    described = identify({"part": NetworkClassifier(Halved())})[1]
    assert "undetermined" not in described and "methods of the class" not in str(described)
    for part in (Pair(1), PGD(), collections.namedtuple("Two", "a b")(1, 2)):
        assert "methods of the class" not in str(identify({"part": part}))


def bound(function):
    part = Holder(0)
    part.forward = types.MethodType(function, part)
    return part


UNTOLD = {
    "lambda as a method": lambda: bound(lambda self, x: x),
    "closure as a method": lambda: bound(scaling(2)),
    "cached closure": lambda: functools.lru_cache(scaling(2)),
    "unlimited cache": lambda: functools.cache(scaling(2)),
    "frompyfunc": lambda: np.frompyfunc(lambda x: x, 1, 1),
    "vectorize": lambda: np.vectorize(lambda x: x),
    "closure in a closure": lambda: factory(scaling(2)),
    "lambda in an own container": lambda: Steps({"a": lambda x: x}),
}


@pytest.mark.parametrize("make", UNTOLD.values(), ids=UNTOLD)
def test_what_cannot_be_determined_is_listed(make):
    assert undetermined(make())


@functools.lru_cache
def cached(x):
    return x


def test_cached_and_library_functions_are_determined():
    held = [cached, np.exp, np.add, functools.partial(F.relu), torch.tanh, Holder, layer]
    assert not [one for one in held if undetermined(one)]
    assert len({fingerprint(one) for one in held}) == len(held)


class Steps(dict):
    pass


class Count(int):
    pass


class Names(list):
    __slots__ = ("k",)


class Tagged(torch.Tensor):
    pass


Left, Right = collections.namedtuple("Left", "a"), collections.namedtuple("Right", "a")


def tagged(value, k):
    value.k = k
    return value


SUBCLASSES = {
    "dictionary": lambda k: tagged(Steps(a=1), k),
    "list": lambda k: tagged(Names([1]), k),
    "integer": lambda k: tagged(Count(1), k),
    "tensor": lambda k: tagged(torch.ones(2), k),
    "own tensor": lambda k: tagged(torch.ones(2).as_subclass(Tagged), k),
    "named tuple": lambda k: (Left if k else Right)(1),
    "own class": lambda k: (Steps if k else dict)(a=1),
    "default": lambda k: collections.defaultdict(int if k else float, a=1),
    "masked array": lambda k: np.ma.array(np.arange(30), mask=[k] * 30),
    "own order": lambda k: Steps(a=1, b=2) if k else Steps(b=2, a=1),
    "weights": lambda k: tagged(Steps(a=1), [layer(k)]),
}


@pytest.mark.parametrize("make", SUBCLASSES.values(), ids=SUBCLASSES)
def test_all_that_a_subclass_of_a_plain_type_holds_counts(make):
    assert fingerprint(make(0)) == fingerprint(make(0)) != fingerprint(make(1))
    assert not undetermined(make(0))


class Level(str, enum.Enum):
    HIGH = "high"


def test_plain_values_are_described_as_before():
    part = {"a": Level.HIGH, "b": torch.Size([2]), "c": np.float64(0.5), "d": collections.OrderedDict(x=1), "e": True}
    assert identify(part)[1] == {"a": "high", "b": [2], "c": 0.5, "d": {"x": 1}, "e": True}


class Stateless:
    def __init__(self, k):
        self.k, self.lock = k, open(__file__)  # noqa: SIM115  # closed with the process

    def __getstate__(self):
        return {}


class Reduced(Stateless):
    def __reduce__(self):
        return (Reduced, (0,))


class Setting:
    """A descriptor with a value."""

    def __init__(self, k):
        self.k = k

    def __get__(self, instance, owner):
        return self.k


def described_by(k):
    return type("Described", (nn.Module,), {"k": Setting(k)})()


@pytest.mark.parametrize("make", [Stateless, Reduced, described_by])
def test_what_pickling_leaves_out_counts(make):
    assert fingerprint(make(0)) == fingerprint(make(0)) != fingerprint(make(1))
    assert not undetermined(make(0))


@pytest.mark.parametrize("keys", [("gain", "shift"), (1, 2), ((1, 2), (3, 4)), (1, "a")])
@pytest.mark.parametrize("hold", [lambda held: held, lambda held: [held], collections.OrderedDict, Pair])
def test_the_order_of_a_dictionary_of_a_foreign_part_counts(keys, hold):
    """A pipeline goes through its steps in this order."""
    first, second = keys
    assert fingerprint(hold({first: 1, second: 2})) != fingerprint(hold({second: 2, first: 1}))


def test_the_order_of_options_of_a_part_of_this_project_does_not_count():
    first, second = PGD(), PGD()
    vars(first)["options"], vars(second)["options"] = {"a": 1, "b": 2}, {"b": 2, "a": 1}
    assert identify({"part": first}) == identify({"part": second})
