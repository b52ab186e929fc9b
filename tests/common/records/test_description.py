"""Everything that a part from elsewhere holds identifies a run; what cannot be determined is listed."""

import functools
import json
import random
import threading

import lightning as L
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from common.engine.engine import Engine
from common.networks import SmallCNN
from common.records.fingerprint import identify
from common.robustness import Attack, Attacked, Classifier, NetworkClassifier, Purified, ThreatModel
from common.robustness.attacks.function_attack import FunctionAttack


def unchanged(classifier, image, label, threat, noise):
    return image


def inverted(classifier, image, label, threat, noise):
    return 1 - image


def double(x):
    return 2 * x


def halve(x):
    return x / 2


def scaling(factor):
    def scaled(x):
        return factor * x

    return scaled


class Options:
    """An object of a user, in a setting."""

    def __init__(self, steps=3):
        self._steps = steps


class Slotted:
    __slots__ = ("level",)

    def __init__(self, level=1):
        self.level = level


class Own(Classifier):
    """A classifier of a user that keeps its settings in every way."""

    floor = 0.0

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.LeakyReLU(0.1), nn.BatchNorm1d(3))
        self.temperature, self._clip = 1.0, True
        self.chunk, self.batch_size = 4, 8  # names that are of speed in classes of this project
        self.act, self.norm, self.wrapped = F.relu, nn.BatchNorm2d, functools.partial(F.softplus, beta=2)
        self.options, self.slotted, self.table = Options(), Slotted(), {"a": [1, 2], 3: "b"}
        self.levels, self.generator = np.arange(3.0), np.random.default_rng(0)
        self.mean = torch.zeros(3)
        self.many = list(range(100))
        self.register_buffer("scale", torch.ones(3), persistent=False)
        self.register_buffer("large", torch.ones(100), persistent=False)
        self.register_buffer("kept", torch.ones(3))

    def forward(self, image, noise=None):
        return self.network(image)


def found(part):
    fingerprint, description = identify({"part": part})
    assert json.loads(json.dumps(description)) == description
    return fingerprint


def changed(place, value):
    def change(part):
        *path, name = place.split(".")
        for step in path:
            part = part[int(step)] if step.isdigit() else getattr(part, step)
        setattr(part, name, value)

    return change


def replaced(index, module):
    def change(part):
        part.network[index] = module

    return change


CHANGES = {
    "public number": changed("temperature", 2.0),
    "private flag": changed("_clip", False),
    "name of speed elsewhere": changed("chunk", 5),
    "another one": changed("batch_size", 9),
    "attribute of the class": changed("floor", 0.5),
    "function": changed("act", F.gelu),
    "builtin function": changed("act", torch.sigmoid),
    "class": changed("norm", nn.BatchNorm1d),
    "partial": changed("wrapped", functools.partial(F.softplus, beta=3)),
    "object": changed("options", Options(4)),
    "attribute of an object": changed("options._steps", 4),
    "slot": changed("slotted.level", 2),
    "dictionary": changed("table", {"a": [1, 3], 3: "b"}),
    "key of a dictionary": changed("table", {"a": [1, 2], 4: "b"}),
    "array": changed("levels", np.arange(3.0) + 1),
    "generator": lambda part: part.generator.random(),
    "tensor": changed("mean", torch.full((3,), 0.5)),
    "type of a tensor": changed("mean", torch.zeros(3, dtype=torch.float64)),
    "long list": changed("many", [*range(99), 0]),
    "buffer outside the state": lambda part: part.scale.mul_(2),
    "large buffer outside the state": lambda part: part.large[7].mul_(2),
    "buffer": lambda part: part.kept.add_(1),
    "weight": lambda part: part.network[1].bias.data.add_(1),
    "new attribute": changed("extra", 1),
    "activation": replaced(2, nn.GELU()),
    "slope of an activation": replaced(2, nn.LeakyReLU(0.2)),
    "setting of a layer": changed("network.3.eps", 1e-3),
    "order of layers": lambda part: part.network._modules.update({"0": part.network[2], "2": part.network[0]}),
    "hook": lambda part: part.network[0].register_forward_pre_hook(print),
    "number of classes": changed("num_classes", 3),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_each_thing_that_a_part_holds_counts(change):
    for wrap in (lambda own: own, lambda own: NetworkClassifier(nn.Sequential(own, nn.Identity()))):
        part = Own()
        before = found(wrap(part))
        change(part)
        assert found(wrap(part)) != before


def test_equal_parts_have_one_fingerprint_and_are_determined():
    first, second = Own(), Own()
    second.train()
    second.freeze()
    second.floor = 0.0  # as in its class
    assert identify({"part": first}) == identify({"part": second})
    assert "undetermined" not in identify({"part": first})[1]


def test_the_normalisation_of_a_classifier_counts():
    network = SmallCNN(10, 3, 8)
    plain, half = NetworkClassifier(network), NetworkClassifier(network, [0.5] * 3, [0.25] * 3)
    other = NetworkClassifier(network, [0.5] * 3, [0.5] * 3)
    assert len({found(one) for one in (plain, half, other)}) == 3
    before = found(half)
    half.mean.mul_(0.5)
    assert found(half) != before
    network.act = F.gelu  # a network of this project with an attribute of its own
    assert found(plain) != identify({"part": NetworkClassifier(SmallCNN(10, 3, 8))})[0]


class Told(Own):
    """A classifier that says what decides its numbers, and keeps state besides."""

    def __init__(self):
        super().__init__()
        self.secret, self.calls = lambda x: x, 0

    def identity(self):
        return {"temperature": self.temperature}


class Fast(Own):
    not_identifying = frozenset({"calls"})
    calls = 0


class Residual(nn.Module):
    """Identity as a layer and as a function of its input: no statement on the module."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Identity()
        self.strength = 1

    def identity(self, x):
        return x


def test_identity_and_not_identifying_speak_for_a_part():
    part = Told()
    before = found(part)
    part.calls, part._clip = 5, None
    assert found(part) == before
    assert "undetermined" not in identify({"part": part})[1]
    assert identify({"part": NetworkClassifier(nn.Sequential(part))})[1].keys() == {"part"}
    part.temperature = 2.0
    assert found(part) != before
    fast = Fast()
    before = found(fast)
    fast.calls = 5
    assert found(fast) == before
    fast._clip = False
    assert found(fast) != before
    residual = Residual()
    before = found(residual)
    residual.strength = 2
    assert found(residual) != before


class Holder(nn.Module):
    def __init__(self, held):
        super().__init__()
        self.held = held


def local(x):
    return x


UNTOLD = {
    "a lambda": lambda x: x,
    "a closure": scaling(2),
    "in a list": [double, lambda x: x],
    "in a dictionary": {"a": {"b": scaling(1)}},
    "in a partial": functools.partial(scaling(2), 1),
    "in an object": Options(lambda: 3),
    "a generator": (x for x in ()),
    "a file": open(__file__),  # noqa: SIM115  # closed with the process
    "a bound method of such an object": Options(scaling(3)).__init__,
}


@pytest.mark.parametrize("held", UNTOLD.values(), ids=UNTOLD)
@pytest.mark.parametrize("wrap", [Holder, lambda held: nn.Sequential(Holder(held)), lambda held: [Options(held)]])
def test_what_cannot_be_determined_is_listed_with_its_place(held, wrap):
    description = identify({"part": wrap(held)})[1]
    (place,) = description["undetermined"]
    assert place.startswith("part.") and ("held" in place or "_steps" in place)


def test_hooks_of_the_project_are_no_part_of_a_run():
    """They are functions with private names, the same in every classifier."""
    classifier = NetworkClassifier(nn.Linear(3, 2))
    assert "_checked_copies" not in str(identify({"part": classifier}))
    classifier.register_forward_pre_hook([].append)  # a method without a module counts
    assert "append" in str(identify({"part": classifier}))


def test_hooks_and_attacks_that_cannot_be_determined_are_listed():
    module = nn.Sequential(nn.Flatten())
    module[0].register_forward_hook(lambda *_: None)
    (place,) = identify({"part": NetworkClassifier(module)})[1]["undetermined"]
    assert "hooks" in place and "lambda" in place
    evaluator = Attacked(lambda *arguments: arguments[1], ThreatModel("inf", 0.1))
    (place,) = identify({"evaluators": [evaluator]})[1]["undetermined"]
    assert place == "evaluators.0.attack.function: a lambda"


@pytest.mark.parametrize(
    "held", [double, torch.relu, F.relu, torch.Tensor.add, np.exp, nn.ReLU, len, torch.no_grad()(double), Own.forward,
             functools.partial(double, 1), threading.Lock(), random.Random(0), torch.float16, range(3), {1, "a"}, None]
)  # fmt: skip
def test_what_an_import_finds_is_determined(held):
    description = identify({"part": Holder(held)})[1]
    assert ("undetermined" in description) == (getattr(held, "__wrapped__", None) is double)


def test_functions_are_told_apart():
    held = [double, halve, torch.relu, torch.sigmoid, F.relu, np.exp, np.log, nn.ReLU, nn.GELU, len, max, Own().forward]
    assert len({found(Holder(one)) for one in held}) == len(held)
    assert found(FunctionAttack(unchanged)) != found(FunctionAttack(inverted))


def test_a_part_that_holds_itself_ends():
    part = Options()
    part.again = [part]
    assert found(part) == found(part)


@pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning")
def test_compiled_and_scripted_modules():
    network = SmallCNN(3, 1, 8).eval()
    assert found(NetworkClassifier(torch.compile(network))) == found(NetworkClassifier(network))
    before, prepared = found(network), Engine(compile=True)
    network.forward = type("C", (), {"identifies_nothing": True})()
    assert found(network) == before and prepared.compile
    layers = [nn.Sequential(nn.Flatten(), nn.LeakyReLU(slope)) for slope in (1, 1, 2)]
    traced = [torch.jit.trace(one, torch.rand(1, 4)) for one in layers]
    one, again, other = (identify({"part": NetworkClassifier(each)}) for each in traced)
    assert one == again != other and "undetermined" not in one[1]
    graph = [torch.fx.symbolic_trace(one) for one in layers]
    one, again, other = (identify({"part": NetworkClassifier(each)}) for each in graph)
    assert one == again != other and "undetermined" not in one[1]


class Images(L.LightningDataModule):
    """A plain data module."""

    def __init__(self, count=3, level=1.0, batch_size=4, num_workers=0):
        super().__init__()
        self.save_hyperparameters("count")
        self._level = level
        self.test = TensorDataset(torch.full((count, 1, 2, 2), level), torch.zeros(count))
        self.batch_size = batch_size


class Careless(L.LightningDataModule):
    def __init__(self, shift=0.0):
        super().__init__()


class Saying(Careless):
    def identity(self):
        return {"shift": 0.5}


class Lit(L.LightningModule):
    def __init__(self, width=2):
        super().__init__()
        self.save_hyperparameters()
        self.gain = 1.0

    def forward(self, x):
        return x


def test_plain_data_modules_are_identified_by_all_they_hold():
    known = found(Images())
    assert known == found(Images(batch_size=8, num_workers=2))
    assert len({known, found(Images(count=4)), found(Images(level=0.5))}) == 3
    module = Images()
    module.shift = 3
    assert found(module) != known
    assert identify({"data": Careless()})[1]["undetermined"] == ["data.shift: an argument that is kept nowhere"]
    assert identify({"data": Saying()})[1] == {"data": {"class": f"{__name__}.Saying", "shift": 0.5}}


def test_a_lightning_module_is_identified_without_its_trainer():
    module = Lit()
    known = found(NetworkClassifier(module))
    trainer = L.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    module.trainer = trainer
    assert found(NetworkClassifier(module)) == known
    assert found(NetworkClassifier(Lit(3))) != known
    module.gain = 2.0
    assert found(NetworkClassifier(module)) != known


class Loud(Attack):
    def __init__(self, strength=1, chunk=None):
        self.strength, self._rounds = strength, 3
        self.size = chunk

    def __call__(self, classifier, image, label, threat, noise):
        return image


def test_attacks_and_purifiers_of_users():
    attack = Loud()
    known = found(Attacked(attack, ThreatModel("inf", 0.1)))
    assert known == found(Attacked(Loud(), ThreatModel("inf", 0.1)))
    attack._rounds = 4
    assert known != found(Attacked(attack, ThreatModel("inf", 0.1)))
    purifiers = [Purified(Holder(quality), NetworkClassifier(nn.Identity())) for quality in (50, 75)]
    assert found(purifiers[0]) != found(purifiers[1])
