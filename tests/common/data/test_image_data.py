"""Data modules: every test image once, on any number of ranks, in any batch size, under the same index."""

from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from common.data.datasets import ImageDataset
from common.data.digits import Digits
from common.data.folders import Folder
from common.data.published_subsets import NDCCIFAR10
from common.data.samplers import ShardSampler
from common.data.subsets import Balanced
from common.data.synthetic import Synthetic

DIGITS_FIRST_LABELS = [6, 5, 9, 8, 2, 3, 5, 9, 9, 5, 3, 1, 8, 3, 8, 5, 5, 4, 7, 7]


@pytest.mark.parametrize(("images", "world"), [(101, 1), (101, 2), (101, 4), (3, 4), (8, 4)])
def test_shards_cover_every_image_once(images, world):
    dataset = ImageDataset(torch.zeros(images, 1, 2, 2), torch.zeros(images, dtype=torch.int64))
    shards = [ShardSampler(dataset, world, rank) for rank in range(world)]
    assert sorted(i for shard in shards for i in shard) == list(range(images))
    assert [len(shard) for shard in shards] == [len(list(shard)) for shard in shards]
    loader = DataLoader(dataset, 7, sampler=shards[-1])
    assert sum(len(batch[2]) for batch in loader) == len(shards[-1])


def test_digits_split_is_fixed_stratified_and_disjoint():
    data = Digits(batch_size=100)
    data.setup()
    assert (len(data.train), len(data.val), len(data.held_out)) == (1157, 128, 512)
    rows = [image.flatten() for part in (data.train, data.val, data.held_out) for image in part.images]
    assert len({tuple(row.tolist()) for row in rows}) == 1797  # no image in two parts
    counts = torch.bincount(data.held_out.labels)
    assert counts.min() >= 49 and counts.max() <= 53
    image, label, index = next(iter(data.test_dataloader()))
    assert image.dtype == torch.float32 and image.min() == 0 and image.max() == 1
    assert index.tolist() == list(range(100))
    assert label.dtype == torch.int64
    # the first images of the split, by their labels: a changed split would silently change every published number
    assert label[:20].tolist() == DIGITS_FIRST_LABELS


def test_test_images_limits_and_is_checked():
    data = Digits(batch_size=64, test_images=70)
    data.setup()
    assert sum(len(batch[0]) for batch in data.test_dataloader()) == 70
    too_many = Digits(test_images=513)
    too_many.setup()
    with pytest.raises(ValueError, match="at most 512"):
        too_many.test_dataloader()
    with pytest.raises(ValueError, match="test_images must be an integer >= 1"):
        Digits(test_images=0)
    with pytest.raises(ValueError, match="batch_size must be an integer >= 1"):
        Digits(batch_size=0)


def test_synthetic_images_follow_their_mixture():
    data = Synthetic(num_classes=3, std=0.1, seed=4)
    data.setup()
    images, labels = data.train.images, data.train.labels
    assert images.min() >= 0 and images.max() <= 1
    for y in range(3):
        chosen = 2 * images[labels == y] - 1
        error = (chosen.mean(0) - data.mixture.means[y]).abs().max()
        assert error < 5 * 0.1 / len(chosen) ** 0.5  # 64 pixels: by chance 4 in 100,000
        assert abs(float((chosen - data.mixture.means[y]).std()) - 0.1) < 0.002
    again = Synthetic(num_classes=3, std=0.1, seed=4)
    again.setup()
    assert torch.equal(again.held_out.images, data.held_out.images)
    assert not torch.equal(data.held_out.images[:256], data.val.images)


def test_settings_can_be_chosen_on_validation_images():
    data = Digits(test_on="validation", test_images=50, batch_size=50)
    data.setup("test")
    image, label, index = next(iter(data.test_dataloader()))
    images, labels, indices = zip(*(data.val[i] for i in range(50)), strict=True)
    assert torch.equal(image, torch.stack(images)) and (label.tolist(), index.tolist()) == ([*labels], [*indices])
    assert data.identity() == {"hold_out_validation": True, "test_on": "validation"}
    assert "test_on" not in Digits().identity()
    data.test_images = 129
    with pytest.raises(ValueError, match="at most 128, the validation images"):
        data.test_dataloader()
    with pytest.raises(ValueError, match="test_on must be"):
        Digits(test_on="train")


def test_the_first_validation_batches_hold_all_classes(tmp_path):
    """A folder's images are sorted by class: validating on its first images would be validating on the first class."""
    for split in ("train", "test"):
        for name in "abc":
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(20):
                Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / split / name / f"{number:02}.png")
    data = Folder(root=tmp_path, batch_size=3)
    data.setup("fit")
    batches = [(labels.tolist(), indices) for _, labels, indices in data.val_dataloader()]
    assert [labels for labels, _ in batches] == [[0, 1, 2]] * 2
    assert sorted(torch.cat([indices for _, indices in batches]).tolist()) == sorted(data.val[i][2] for i in range(6))


@pytest.mark.parametrize("form", [list, np.array, torch.tensor])
def test_labels_of_a_data_set_of_torchvision(form):
    """Its data sets keep labels as a list or an array."""
    data = Digits(batch_size=10, subset=Balanced(), test_images=10)
    data.setup("fit")
    data.setup("test")
    for images in (data.val, data.held_out):
        images.labels = form(images.labels.tolist())
    for loader in (data.val_dataloader(), data.test_dataloader()):
        assert next(iter(loader))[1].tolist() == [*range(10)]


def test_the_identity_is_that_of_the_images_tested_on(tmp_path):
    """Other training images are another held-out set, though the test images are the same."""
    found = set()
    for number, test_on in product((20, 30), ("test", "validation")):
        for split, count in (("train", number), ("test", 4)):
            for name in "ab":
                folder = tmp_path / str(number) / split / name
                folder.mkdir(parents=True, exist_ok=True)
                for i in range(count):
                    Image.new("RGB", (8, 8), (i, 0, 0)).save(folder / f"{i:02}.png")
        data = Folder(root=tmp_path / str(number), test_on=test_on)
        data.setup("test")
        found.add((test_on, data.identity()["images"], data.identity()["sha256"]))
    assert len(found) == 3 and {count for _, count, _ in found} == {8, 4, 6}


def test_validation_images_with_the_classes_in_turn():
    data = Digits(test_on="validation", test_images=20, batch_size=128, subset=Balanced())
    data.setup("test")
    image, label, index = next(iter(data.test_dataloader()))
    assert label.tolist() == [*range(10)] * 2
    images, _, indices = next(iter(data.val_dataloader()))
    known = dict(zip(indices.tolist(), images, strict=True))
    assert all(torch.equal(known[i], x) for i, x in zip(index.tolist(), image, strict=True))
    with pytest.raises(ValueError, match="NDCCIFAR10 is"):
        Digits(test_on="validation", subset=NDCCIFAR10())
