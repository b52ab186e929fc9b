"""Augmentation: alternating flips, reflected borders, independence of the batch."""

import pytest
import torch

from common.data.augmentation import Augmentation
from common.noise import Noise

COUNT = 64


def noise(epoch, index=None):
    index = torch.arange(COUNT) if index is None else index
    return Noise(0, index, torch.full_like(index, epoch))


@pytest.fixture
def images():
    return torch.rand(COUNT, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_alternating_flips_show_both_orientations_in_two_epochs(images):
    flips = Augmentation(shift=0)
    first, second, third = (flips(images, noise(epoch)) for epoch in range(3))
    assert torch.equal(first, third)
    assert torch.equal(first.flip(3), second)
    flipped = (first != images).flatten(1).any(1)
    assert 0.25 < flipped.float().mean() < 0.75


def test_random_flips_differ_between_epochs(images):
    flips = Augmentation(shift=0, mirroring="random")
    assert not torch.equal(flips(images, noise(0)), flips(images, noise(2)))


def test_a_shift_is_a_crop_of_the_reflected_image(images):
    shifted = Augmentation(shift=2, mirroring="never")(images, noise(0))
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2), mode="reflect")
    offsets = set()
    for image, around in zip(shifted, padded, strict=True):
        places = [(r, c) for r in range(5) for c in range(5) if torch.equal(around[:, r : r + 8, c : c + 8], image)]
        assert len(places) == 1
        offsets.update(places)
    assert len(offsets) > 15


def test_cutout_greys_one_whole_square_at_a_uniform_place(images):
    cut = Augmentation(shift=0, mirroring="never", cutout=3)(images, noise(0))
    places = []
    for image, original in zip(cut, images, strict=True):
        changed = (image != original).any(0)
        rows, columns = (changed.any(axis).nonzero()[:, 0].tolist() for axis in (1, 0))
        assert rows == list(range(rows[0], rows[0] + 3)) and columns == list(range(columns[0], columns[0] + 3))
        assert bool((image[:, changed] == 0.5).all()) and int(changed.sum()) == 9
        places.append((rows[0], columns[0]))
    assert {place for pair in places for place in pair} == set(range(6)) and len(set(places)) > 20


def test_an_image_does_not_depend_on_its_batch(images):
    augmentation = Augmentation(cutout=3)
    together = augmentation(images, noise(3))
    chosen = torch.tensor([5, 2, 40])
    assert torch.equal(together[chosen], augmentation(images[chosen], noise(3, chosen)))


def test_without_shift_and_flips_images_are_unchanged(images):
    assert Augmentation(shift=0, mirroring="never")(images, noise(0)) is images


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shift": -1}, "shift.* >= 0"),
        ({"mirroring": "twice"}, "mirroring must be one"),
        ({"cutout": -1}, "cutout.* >= 0"),
    ],
)
def test_bad_settings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**arguments)


@pytest.mark.parametrize("name", ["shift", "cutout"])
def test_a_shift_or_cutout_as_large_as_the_image_is_refused(images, name):
    with pytest.raises(ValueError, match=f"{name} must be less than the image's sides"):
        Augmentation(**{name: 8})(images, noise(0))
