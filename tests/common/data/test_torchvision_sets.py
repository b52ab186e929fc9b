"""CIFAR-10, CIFAR-100 and SVHN from files in the publishers' layout, small ones with checksums of their own."""

import hashlib
import pickle

import numpy as np
import pytest
import scipy.io
import torch
import torchvision.datasets

from common.data.image_files import ImageFiles
from common.data.torchvision_sets import CIFAR10, CIFAR100, SVHN

TRAIN, TEST = 12, 7


def cifar(monkeypatch, root, source, files, key):
    """Small pickles, as the publishers' are; returns pixels (N,3,32,32) and labels, training and test."""
    generator = np.random.RandomState(0)
    folder = root / source.base_folder
    folder.mkdir()
    parts, lists = [], []
    for name, images in files:
        data = generator.randint(0, 256, (images, 3072), dtype=np.uint8)
        labels = generator.randint(0, 10, images).tolist()
        (folder / name).write_bytes(pickle.dumps({"data": data, key: labels}))
        lists.append([name, hashlib.md5((folder / name).read_bytes()).hexdigest()])
        parts.append((data.reshape(-1, 3, 32, 32), labels))
    meta = folder / source.meta["filename"]
    meta.write_bytes(pickle.dumps({source.meta["key"]: ["a"]}))
    monkeypatch.setattr(source, "meta", {**source.meta, "md5": hashlib.md5(meta.read_bytes()).hexdigest()})
    monkeypatch.setattr(source, "train_list", lists[:-1])
    monkeypatch.setattr(source, "test_list", lists[-1:])
    pixels, labels = (np.concatenate(each) for each in zip(*parts[:-1], strict=True))
    return (pixels, labels.tolist()), parts[-1]


def svhn(monkeypatch, root):
    generator, parts, lists = np.random.RandomState(0), {}, {}
    for split, images in (("train", TRAIN), ("test", TEST)):
        data = generator.randint(0, 256, (images, 3, 32, 32), dtype=np.uint8)
        labels = generator.randint(1, 11, images)
        labels[0] = 10  # how the publishers write a zero
        path = root / f"{split}_32x32.mat"
        scipy.io.savemat(path, {"X": data.transpose(2, 3, 1, 0), "y": labels[:, None]})
        lists[split] = ["", path.name, hashlib.md5(path.read_bytes()).hexdigest()]
        parts[split] = data, (labels % 10).tolist()
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", lists)
    return parts["train"], parts["test"]


@pytest.fixture(params=["cifar10", "cifar100", "svhn"])
def published(request, monkeypatch, tmp_path):
    """(data module's class, (training pixels, labels), (test pixels, labels))"""
    if request.param == "svhn":
        return SVHN, *svhn(monkeypatch, tmp_path)
    if request.param == "cifar10":
        files = [("data_batch_1", TRAIN - 5), ("data_batch_2", 5), ("test_batch", TEST)]
        return CIFAR10, *cifar(monkeypatch, tmp_path, torchvision.datasets.CIFAR10, files, "labels")
    files = [("train", TRAIN), ("test", TEST)]
    return CIFAR100, *cifar(monkeypatch, tmp_path, torchvision.datasets.CIFAR100, files, "fine_labels")


def test_images_and_labels_are_the_published_ones(published, tmp_path):
    kind, (train, train_labels), (test, test_labels) = published
    data = kind(root=tmp_path, batch_size=4)
    data.prepare_data()
    data.setup()
    batches = list(data.test_dataloader())
    image, label, index = (torch.cat(part) for part in zip(*batches, strict=True))
    assert image.dtype == torch.float32 and label.dtype == index.dtype == torch.int64
    assert torch.equal(image, torch.from_numpy(test) / 255)
    assert label.tolist() == test_labels and index.tolist() == list(range(TEST))
    assert len(data.train) + len(data.val) == TRAIN and len(data.val) == TRAIN // 2
    both = torch.cat([data.train.images, data.val.images])
    assert torch.equal(both, torch.from_numpy(train))
    assert data.train.labels.tolist() + data.val.labels.tolist() == train_labels
    assert len(data.classes) == len(set(data.classes)) == data.num_classes
    assert data.shape == tuple(image.shape[1:])
    assert data.identity() == {"hold_out_validation": True}  # independent of the folder
    full = kind(root=tmp_path, hold_out_validation=False)
    full.setup("fit")
    assert len(full.train) == TRAIN
    assert not hasattr(full, "held_out")


@pytest.mark.parametrize("kind", [CIFAR10, CIFAR100, SVHN])
def test_missing_files_are_named_and_never_downloaded_unrequested(kind, tmp_path, monkeypatch):
    downloads = []
    for source in (torchvision.datasets.CIFAR10, torchvision.datasets.CIFAR100, torchvision.datasets.SVHN):
        monkeypatch.setattr(source, "download", lambda self: downloads.append(type(self).__name__))
    data = kind(root=tmp_path / "nowhere")
    data.prepare_data()
    with pytest.raises(FileNotFoundError, match=r"nowhere.*download: true"):
        data.setup("test")
    assert not downloads
    with pytest.raises(RuntimeError):  # torchvision: the files are still missing
        kind(root=tmp_path, download=True).prepare_data()
    assert downloads == [kind.__name__]


def test_damaged_files_are_refused(published, tmp_path):
    kind, _, _ = published
    for path in (path for path in tmp_path.rglob("*test*")):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(FileNotFoundError, match="unchanged"):
        kind(root=tmp_path).setup("test")


def test_predicting_a_folder_needs_no_data_set(tmp_path):
    from PIL import Image

    Image.new("RGB", (5, 4), "red").save(tmp_path / "a.png")
    data = CIFAR10(root=tmp_path / "nowhere", download=True, path=tmp_path)
    data.prepare_data()
    data.setup("predict")
    ((image, label, index),) = data.predict_dataloader()
    assert image.shape == (1, 3, 4, 5) and label.tolist() == [-1] and index.tolist() == data.files.indices
    resized = ImageFiles(tmp_path, size=3, channels=1)
    resized.setup("predict")
    assert next(iter(resized.predict_dataloader()))[0].shape == (1, 1, 3, 3)
    with pytest.raises(ValueError, match="can be predicted, not tested"):
        resized.setup("test")
    with pytest.raises(ValueError, match="channels must be one of 1, 3"):
        ImageFiles(tmp_path, channels=4)
