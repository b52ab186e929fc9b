"""Unlabelled images: each once, in batches of one size, on any number of processes."""

import hashlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from common.data.crop import Crop
from common.data.image_files import ImageFiles
from common.data.unlabelled import UnlabelledBatches, UnlabelledImages, name_indices, read_class_names

SIZES = {"a.png": (8, 8), "b/c.png": (8, 8), "b/d.jpg": (6, 9), "b/e/f.PNG": (8, 8), "z.webp": (9, 6)}


@pytest.fixture
def folder(tmp_path):
    """Five images of three sizes; a text file, a hidden image, a file that is no image, and a truncated image."""
    generator = np.random.RandomState(0)
    for name, size in SIZES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.randint(0, 256, (*size, 3), dtype=np.uint8)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / ".hidden.png").write_bytes((tmp_path / "a.png").read_bytes())
    (tmp_path / "b" / "broken.png").write_text("not an image either")
    (tmp_path / "b" / "truncated.png").write_bytes((tmp_path / "a.png").read_bytes()[:100])
    return tmp_path


def test_names_are_alphabetical_and_relative(folder):
    assert UnlabelledImages(folder).names == [
        "a.png",
        "b/broken.png",
        "b/c.png",
        "b/d.jpg",
        "b/e/f.PNG",
        "b/truncated.png",
        "z.webp",
    ]
    one = UnlabelledImages(folder / "b" / "c.png")
    assert one.names == ["c.png"] and one.single and not UnlabelledImages(folder).single
    with pytest.raises(FileNotFoundError, match="no folder or image file"):
        UnlabelledImages(folder / "nowhere")
    (folder / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no image in .*empty"):
        UnlabelledImages(folder / "empty")


@pytest.mark.parametrize(("batch_size", "world"), [(1, 1), (2, 1), (8, 1), (8, 3)])
def test_batches_hold_each_readable_image_once(folder, batch_size, world):
    images = UnlabelledImages(folder)
    seen = []
    for image, label, index in UnlabelledBatches(images, batch_size, world):
        assert len(image) == len(label) == len(index) <= batch_size and {*label.tolist()} <= {-1}
        for row, which in enumerate(index.tolist()):
            name = images.names[images.positions[which]]
            expected = np.asarray(Image.open(folder / name))
            assert torch.equal(image[row], torch.from_numpy(expected.copy()).permute(2, 0, 1) / 255)
            seen.append(name)
    assert sorted(seen) == sorted(SIZES)


def test_an_images_index_depends_on_its_name_alone(folder):
    def indices(path):
        images = UnlabelledImages(path)
        return dict(zip(images.names, images.indices, strict=True))

    before = indices(folder)
    Image.new("RGB", (8, 8)).save(folder / "aa.png")
    after = indices(folder)
    assert before.items() < after.items()
    assert indices(folder / "a.png") == {"a.png": before["a.png"]}
    assert before["a.png"] == int(hashlib.sha256(b"a.png").hexdigest()[:8], 16)


def test_equal_hashes_get_distinct_indices(monkeypatch):
    names = [f"{i}.png" for i in range(3)]
    monkeypatch.setattr(hashlib, "sha256", lambda name: SimpleNamespace(digest=lambda: b"\xff" * 32))
    assert name_indices(names) == [2**32 - 1, 0, 1]
    monkeypatch.undo()
    many = name_indices([f"{i:05d}.png" for i in range(50_000)])
    assert len({*many}) == 50_000 and min(many) >= 0 and max(many) < 2**32


def test_few_images_are_shared_among_processes(folder):
    largest = [max(map(len, UnlabelledBatches(UnlabelledImages(folder), 8, world).batches)) for world in (1, 2, 4)]
    assert largest == [4, 2, 1]


def test_one_size_for_all_gives_one_batch(folder):
    (batch,) = UnlabelledBatches(UnlabelledImages(folder, Crop(4), channels=1), 16)
    assert batch[0].shape == (5, 1, 4, 4)


def test_a_batch_of_truncated_images_is_empty(folder):
    (batch,) = UnlabelledBatches(UnlabelledImages(folder / "b" / "truncated.png"), 4)
    assert [len(part) for part in batch] == [0, 0, 0]


def test_worker_processes_change_nothing(folder):
    alone, helped = (ImageFiles(folder, batch_size=2, workers=workers) for workers in (0, 1))
    for first, second in zip(alone.predict_dataloader(), helped.predict_dataloader(), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_class_names_are_read_line_by_line(tmp_path):
    (tmp_path / "names.txt").write_text("tench\n great white shark \n\n", encoding="utf-8")
    assert read_class_names(tmp_path / "names.txt") == ["tench", "great white shark"]
    for text, line in (("", 1), ("tench\n\nhammerhead", 2)):  # later classes would be shifted
        (tmp_path / "gap.txt").write_text(text)
        with pytest.raises(ValueError, match=f"gap.txt must hold .* line {line} is empty"):
            read_class_names(tmp_path / "gap.txt")
    with pytest.raises(FileNotFoundError, match="no file of class names"):
        read_class_names(tmp_path / "nowhere.txt")
