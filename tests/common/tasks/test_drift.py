"""State that changes while rows are written is refused, except where the part says that it decides no number."""

import types

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset, default_collate

from common.records.store import Records
from common.robustness import Attack, Attacked, Clean
from tests.common.tasks.test_resuming import BALL, Images, Own, rows


class Drifting(Own):
    """Calls ``move(self, image)`` with each batch."""

    not_identifying = frozenset({"calls", "ignored"})

    def __init__(self, move):
        super().__init__()
        self.move = MOVES.index(move)
        self.level, self.table, self.names, self.calls = 0.1, {"a": [1, 2]}, ["a"], 0
        self.cache, self.empty = None, {}
        self.mean, self.large, self.array = torch.zeros(3), torch.arange(100.0), np.arange(3.0)
        torch.manual_seed(0)
        self.inner, self.state = nn.Dropout(0.1), types.SimpleNamespace(count=0)
        self.generator, self.held = np.random.default_rng(0), [nn.Linear(2, 2)]
        self.register_buffer("shift", torch.tensor(0.1), persistent=False)
        self.register_buffer("ignored", torch.zeros(30), persistent=False)
        self.register_buffer("integer", torch.tensor(0))
        self.register_buffer("flags", torch.zeros(40, dtype=torch.bool))

    def forward(self, image, noise=None):
        MOVES[self.move](self, image)
        return super().forward(image, noise)


def level(part, image):
    part.level += 0.01


def entry(part, image):
    part.table["a"][1] += 1


def removed(part, image):
    part.table.clear()


def grown(part, image):
    part.names.append("b")


def mean(part, image):
    part.mean = part.mean + 0.1


def large(part, image):
    part.large = part.large.roll(1)


def array(part, image):
    part.array += 1


def setting_of_a_part(part, image):
    part.inner.p *= 0.99


def attribute_of_an_object(part, image):
    part.state.count += 1


def generator(part, image):
    part.generator.random()


def weight_in_a_list(part, image):
    part.held[0].weight.data.add_(0.1)


def order_in_a_list(part, image):
    part.held[0].weight.data = part.held[0].weight.data.flip(0)


def shift(part, image):
    part.shift.add_(0.01)


def integer(part, image):
    part.integer.add_(1)


def flags(part, image):
    part.flags.logical_not_()


def rolled(part, image):
    part.linear.weight.data = part.linear.weight.data.roll(1, 1)


def swapped(part, image):
    part.linear.weight.data = part.linear.weight.data.flip(0)


def last_image(part, image):
    part.cache = image.mean().item()


MOVES = [
    level, entry, removed, grown, mean, large, array, setting_of_a_part, attribute_of_an_object, generator,
    weight_in_a_list, order_in_a_list, shift, integer, flags, rolled, swapped, last_image,
]  # fmt: skip
COUNTING = [entry, attribute_of_an_object, generator, integer]
REFUSED = [move for move in MOVES if move not in COUNTING]


@pytest.mark.parametrize("move", REFUSED)
def test_state_that_drifts_is_refused(tmp_path, move):
    with pytest.raises(ValueError, match=r"^classifier.* changed during the test, so its numbers (may )?depend on"):
        rows(Drifting(move), tmp_path)
    assert len(Records.read(tmp_path)) == (5 if move is last_image else 0)


@pytest.mark.parametrize("move", COUNTING)
def test_an_integer_that_may_count_warns_and_is_not_resumed(tmp_path, move):
    first = Subset(Images(), range(6))
    with pytest.warns(UserWarning, match=r"^classifier.* changed .* unless this only counts, .* cannot be resumed"):
        assert len(rows(Drifting(move), tmp_path, data=first)) == 6
    with pytest.raises(ValueError, match=r"^classifier.* cannot be determined whether this resumed test continues"):
        rows(Drifting(move), tmp_path)
    assert len(Records.read(tmp_path)) == 6


class Telling(Drifting):
    not_identifying = frozenset({"integer"})


def test_an_integer_buffer_that_decides_no_number(tmp_path):
    rows(Telling(integer), tmp_path, data=Subset(Images(), range(6)))
    assert len(rows(Telling(integer), tmp_path)) == 12


def counter(part, image):
    part.calls += 1
    part.ignored.add_(1)


def fixed_cache(part, image):
    part.cache = 3.0
    part.empty[(2, tuple(image.shape[2:]))] = torch.ones(2)
    part.added = {"x": 1}


def restored(part, image):
    part.level *= 2
    part.level /= 2
    part.linear.weight.data = part.linear.weight.data.clone()


MOVES += [counter, fixed_cache, restored]


@pytest.mark.parametrize("move", [counter, fixed_cache, restored])
def test_counters_and_caches_are_allowed(tmp_path, move):
    assert len(rows(Drifting(move), tmp_path)) == 12


class Adapting(Attack):
    """Its step shrinks with each batch."""

    def __init__(self):
        self.step = 0.1

    def __call__(self, classifier, image, label, threat, noise):
        self.step *= 0.5
        return (image + self.step).clamp(0, 1)


class Told(Adapting):
    def identity(self):
        return {"step": 0.1}


def test_state_of_an_attack(tmp_path):
    with pytest.raises(ValueError, match=r"evaluators\.1\.attack\.step changed .* not_identifying.*identity\(\)"):
        rows(Own(), tmp_path / "drifts", [Clean(), Attacked(Adapting(), BALL)])
    assert len(rows(Own(), tmp_path / "told", [Attacked(Told(), BALL)])) == 12


class Scaled(Subset):
    def __init__(self, data, indices, gain):
        super().__init__(data, indices)
        self.gain = gain

    def __getitem__(self, position):
        image, label, index = super().__getitem__(position)
        return image * self.gain, label, index

    def __getitems__(self, positions):
        return [self[position] for position in positions]


def scaled_batch(gain):
    return type("Collate", (), {"gain": gain, "__call__": collate})()


def collate(self, examples):
    image, label, index = default_collate(examples)
    return image * self.gain, label, index


class ScaledLoader(DataLoader):
    def __init__(self, dataset, gain=1.0, **options):
        super().__init__(dataset, **options)
        self.gain = gain

    def __iter__(self):
        for image, label, index in super().__iter__():
            yield image * self.gain, label, index


def made_subset(gain):
    class Made(Scaled):
        def __getitem__(self, position):
            image, label, index = Subset.__getitem__(self, position)
            return image * gain, label, index

    return Made


LOADERS = {
    "subset": lambda gain, count: DataLoader(Scaled(Images(), range(count), gain), batch_size=5),
    "subset of a subset": lambda gain, count: DataLoader(
        Subset(Scaled(Images(), range(12), gain), range(count)), batch_size=5
    ),
    "made subset": lambda gain, count: DataLoader(made_subset(gain)(Images(), range(count), 1.0), batch_size=5),
    "collate_fn": lambda gain, count: DataLoader(
        Subset(Images(), range(count)), batch_size=5, collate_fn=scaled_batch(gain)
    ),
    "loader": lambda gain, count: ScaledLoader(Subset(Images(), range(count)), gain, batch_size=5),
}


@pytest.mark.parametrize("make", LOADERS.values(), ids=LOADERS)
def test_what_loader_and_subset_do_to_the_images_counts(tmp_path, make):
    first = rows(Own(), tmp_path, loader=make(1.0, 6))
    assert len(first) == 6
    assert len(rows(Own(), tmp_path, loader=make(1.0, 12))) == 12
    with pytest.raises(ValueError, match="holds records of another configuration"):
        rows(Own(), tmp_path, loader=make(0.5, 12))


@pytest.mark.parametrize("collate_fn", [lambda batch: default_collate(batch), None])
def test_a_collate_function_that_cannot_be_determined(tmp_path, collate_fn, recwarn):
    rows(Own(), tmp_path, loader=DataLoader(Images(), batch_size=5, collate_fn=collate_fn))
    warned = [str(one.message) for one in recwarn if "cannot be resumed" in str(one.message)]
    assert bool(warned) == (collate_fn is not None)
    assert all("collate_fn: a lambda" in one for one in warned)
