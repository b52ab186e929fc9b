"""Pictures to predict: all that are there, each once, in batches of one size, on any number of processes."""

import hashlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from common.data.benchmarks import ImageFiles
from common.data.image_files import Crop
from common.data.unlabelled import PictureBatches, Pictures, class_names, index_names

SIZES = {"a.png": (8, 8), "b/c.png": (8, 8), "b/d.jpg": (6, 9), "b/e/f.PNG": (8, 8), "z.webp": (9, 6)}


@pytest.fixture
def folder(tmp_path):
    """Five pictures of three sizes, and what is none: a text, a hidden one, a broken one, a torn one."""
    generator = np.random.RandomState(0)
    for name, size in SIZES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.randint(0, 256, (*size, 3), dtype=np.uint8)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / ".hidden.png").write_bytes((tmp_path / "a.png").read_bytes())
    (tmp_path / "b" / "broken.png").write_text("no picture either")
    (tmp_path / "b" / "torn.png").write_bytes((tmp_path / "a.png").read_bytes()[:100])
    return tmp_path


def test_names_are_alphabetical_and_relative(folder):
    assert Pictures(folder).names == [
        "a.png",
        "b/broken.png",
        "b/c.png",
        "b/d.jpg",
        "b/e/f.PNG",
        "b/torn.png",
        "z.webp",
    ]
    one = Pictures(folder / "b" / "c.png")
    assert one.names == ["c.png"] and one.single and not Pictures(folder).single
    with pytest.raises(FileNotFoundError, match="no folder or picture"):
        Pictures(folder / "nowhere")
    (folder / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no picture in .*empty"):
        Pictures(folder / "empty")


@pytest.mark.parametrize(("batch_size", "world"), [(1, 1), (2, 1), (8, 1), (8, 3)])
def test_batches_hold_each_readable_picture_once(folder, batch_size, world):
    pictures = Pictures(folder)
    seen = []
    for image, label, index in PictureBatches(pictures, batch_size, world):
        assert len(image) == len(label) == len(index) <= batch_size and {*label.tolist()} <= {-1}
        for row, which in enumerate(index.tolist()):
            name = pictures.names[pictures.positions[which]]
            expected = np.asarray(Image.open(folder / name))
            assert torch.equal(image[row], torch.from_numpy(expected.copy()).permute(2, 0, 1) / 255)
            seen.append(name)
    assert sorted(seen) == sorted(SIZES)


def test_a_pictures_index_depends_on_its_name_alone(folder):
    def indices(path):
        found = Pictures(path)
        return dict(zip(found.names, found.indices, strict=True))

    before = indices(folder)
    Image.new("RGB", (8, 8)).save(folder / "aa.png")
    after = indices(folder)
    assert before.items() < after.items()
    assert indices(folder / "a.png") == {"a.png": before["a.png"]}
    assert before["a.png"] == int(hashlib.sha256(b"a.png").hexdigest()[:8], 16)


def test_equal_numbers_are_told_apart(monkeypatch):
    names = [f"{i}.png" for i in range(3)]
    monkeypatch.setattr(hashlib, "sha256", lambda name: SimpleNamespace(digest=lambda: b"\xff" * 32))
    assert index_names(names) == [2**32 - 1, 0, 1]
    monkeypatch.undo()
    many = index_names([f"{i:05d}.png" for i in range(50_000)])
    assert len({*many}) == 50_000 and min(many) >= 0 and max(many) < 2**32


def test_few_pictures_are_shared_among_processes(folder):
    largest = [max(map(len, PictureBatches(Pictures(folder), 8, world).batches)) for world in (1, 2, 4)]
    assert largest == [4, 2, 1]


def test_one_size_for_all_gives_one_batch(folder):
    (batch,) = PictureBatches(Pictures(folder, Crop(4), channels=1), 16)
    assert batch[0].shape == (5, 1, 4, 4)


def test_a_batch_of_torn_pictures_is_empty(folder):
    (batch,) = PictureBatches(Pictures(folder / "b" / "torn.png"), 4)
    assert [len(part) for part in batch] == [0, 0, 0]


def test_worker_processes_change_nothing(folder):
    alone, helped = (ImageFiles(folder, batch_size=2, workers=workers) for workers in (0, 1))
    for first, second in zip(alone.predict_dataloader(), helped.predict_dataloader(), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_class_names_are_lines(tmp_path):
    (tmp_path / "names.txt").write_text("tench\n great white shark \n\n", encoding="utf-8")
    assert class_names(tmp_path / "names.txt") == ["tench", "great white shark"]
    for text, line in (("", 1), ("tench\n\nhammerhead", 2)):  # whose number would be another
        (tmp_path / "gap.txt").write_text(text)
        with pytest.raises(ValueError, match=f"gap.txt must hold .* line {line} is empty"):
            class_names(tmp_path / "gap.txt")
    with pytest.raises(FileNotFoundError, match="no file of class names"):
        class_names(tmp_path / "nowhere.txt")
