"""Labelled folders: torchvision's order, timm's crop, identity, and errors that name the expected layout."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

from common.data.celebahq import CelebAHQ
from common.data.folders import Folder, ImageNet
from common.data.image_files import ImageFiles
from common.data.subsets import Balanced


def save_image(path, seed=0, size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.RandomState(seed).randint(0, 256, (*size, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def root(tmp_path):
    """Two classes; three training and two test images each, one of them in a sub-folder."""
    for number, (part, images) in enumerate([("train", 3), ("test", 2)]):
        for kind in ("cat", "dog"):
            for i in range(images):
                deep = "deep/" if i == 1 else ""
                save_image(tmp_path / "set" / part / kind / f"{deep}{9 - i}.png", seed=10 * number + i + len(deep))
    (tmp_path / "set" / "test" / "cat" / "notes.txt").write_text("not an image")
    (tmp_path / "set" / "test" / "cat" / "._9.png").write_text("metadata of another system")
    return tmp_path / "set"


def loaded(loader):
    image, label, index = (torch.cat(part) for part in zip(*loader, strict=True))
    return image, label.tolist(), index.tolist()


def test_a_folder_is_read_as_torchvision_reads_it(root):
    data = Folder(root, batch_size=3)
    data.setup()
    image, label, index = loaded(data.test_dataloader())
    (root / "test" / "cat" / "._9.png").unlink()  # torchvision would read it
    reference = ImageFolder(root / "test")
    assert index == [0, 1, 2, 3] and label == [y for _, y in reference] == [0, 0, 1, 1]
    for pixels, (expected, _) in zip(image, reference, strict=True):
        assert torch.equal(pixels, torch.from_numpy(np.asarray(expected).copy()).permute(2, 0, 1) / 255)
    assert (data.num_classes, data.classes, data.shape) == (2, ["cat", "dog"], (3, 8, 8))


def test_nested_folders_are_in_torchvisions_order(root):
    for name in ("cat/a/1.png", "cat/a-b/1.png", "cat/1.png", "dog/B/1.png", "dog/b/1.jpeg", "dog/2.PNG"):
        save_image(root / "test" / name)
    (root / "test" / "cat" / "._9.png").unlink()
    data = Folder(root)
    data.setup("test")
    expected = [path for path, _ in ImageFolder(root / "test").imgs]
    assert [str(root / "test" / name) for name in data.held_out.names] == expected


def test_worker_processes_change_nothing(root):
    alone, helped = Folder(root), Folder(root, workers=1, batch_size=2)
    for data in (alone, helped):
        data.setup("test")
    assert torch.equal(loaded(alone.test_dataloader())[0], loaded(helped.test_dataloader())[0])


def test_a_single_folder_can_be_tested_but_not_trained_on(root):
    data = Folder(root / "test", subset=Balanced(0), size=4)
    data.setup("test")
    image, label, index = loaded(data.test_dataloader())
    assert label == [0, 1, 0, 1] and sorted(index) == [0, 1, 2, 3] and image.shape == (4, 3, 4, 4)
    with pytest.raises(FileNotFoundError, match="no training images"):
        Folder(root / "test").setup("fit")


def test_validation_is_never_the_test(root):
    for i in range(17):
        save_image(root / "train" / "cat" / f"more{i:02d}.png", seed=i)
    data = Folder(root)
    data.setup("fit")
    names = {*data.train.names}, {*data.val.names}
    assert not names[0] & names[1] and len(names[0] | names[1]) == 23 and len(names[1]) == 2
    assert [data.val.labels[i] for i in range(2)] == [["cat", "dog"].index(n.split("/")[0]) for n in data.val.names]
    shutil.copytree(root / "test", root / "val")
    data = Folder(root)
    data.setup("fit")
    assert len(data.train) == 23 and data.val.root == root / "val"


def test_classes_are_those_of_the_training_folders(root):
    shutil.rmtree(root / "test" / "cat")
    data = Folder(root)
    data.setup("test")
    assert loaded(data.test_dataloader())[1] == [1, 1] and data.num_classes == 2  # dog is still class 1
    save_image(root / "test" / "emu" / "1.png")
    with pytest.raises(ValueError, match="emu"):
        Folder(root).setup("test")


def test_identity_is_that_of_the_images(root, tmp_path):
    def identity(place, **options):
        data = Folder(place, **options)
        data.setup("test")
        return data.identity()

    here = identity(root)
    shutil.copytree(root, tmp_path / "elsewhere")
    assert identity(tmp_path / "elsewhere", workers=1, batch_size=2, test_images=1) == here
    assert identity(root, size=4) != here
    assert identity(root, size=4) != identity(root, size=4, interpolation="bilinear")
    assert identity(root, timm_model="test_vit")["crop"]["interpolation"] == "bicubic"
    save_image(root / "train" / "cat" / "new.png")
    assert identity(root) == here  # not a test image
    first = next((root / "test" / "cat").glob("*.png"))
    first.rename(first.with_name("renamed.png"))
    renamed = identity(root)
    save_image(first.with_name("renamed.png"), seed=5, size=(9, 9))
    assert len({settings["sha256"] for settings in (here, renamed, identity(root))}) == 3


def check_refused(loader, message):
    """The error's traceback holds the loader, whose process would be waited for during a later start of another."""
    with pytest.raises(ValueError, match=message) as raised:
        list(loader)
    raised.value.__traceback__ = None


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unusable_image_is_named_in_one_line(root, workers):
    bad = root / "test" / "dog" / "9.png"
    content = bad.read_bytes()
    data = Folder(root, workers=workers)
    data.setup("test")
    bad.write_bytes(content[:60])
    check_refused(data.test_dataloader(), r"^\S+dog/9\.png is damaged: [^\n]+ replace this file\.$")
    save_image(bad, size=(8, 9))
    other = r"^\S+dog/9\.png has 8x9 pixels, the first image 8x8: [^\n]+init_args\.size$"
    check_refused(data.test_dataloader(), other)
    resized = Folder(root, size=8, workers=workers)
    resized.setup("test")
    assert len(loaded(resized.test_dataloader())[0]) == 4


@pytest.mark.parametrize("case", ["nowhere", "no classes", "empty classes", "only train", "one class", "capitals"])
def test_missing_folders_are_named(tmp_path, case):
    place = tmp_path / "set"
    if case == "no classes":
        place.mkdir()
    elif case == "empty classes":
        (place / "cat").mkdir(parents=True)
    elif case == "only train":
        save_image(place / "train" / "cat" / "1.png")
    elif case == "one class":  # or none: a layout with another word for val
        save_image(place / "valid" / "cat" / "1.png")
    elif case == "capitals":
        save_image(place / "Train" / "cat" / "1.png")
        save_image(place / "Test" / "cat" / "1.png")
    with pytest.raises(FileNotFoundError, match=f"{place}.*CLASS"):
        Folder(place).setup("test")


def test_imagenet_is_cropped_as_in_the_papers_and_must_be_complete(tmp_path, monkeypatch):
    save_image(tmp_path / "val" / "n01440764" / "a.JPEG", size=(300, 256))
    for i in range(1, 1000):
        (tmp_path / "val" / f"n{i + 10_000_000}").mkdir()
        if i == 2:
            with pytest.raises(ValueError, match=r"1,000 classes.*has 3"):
                ImageNet(tmp_path).setup("test")
    data = ImageNet(tmp_path)
    data.setup("test")
    image, label, _ = data.held_out[0]
    # 256 is the shorter side already: nothing is resampled, and the crop is rows 38..261, columns 16..239
    original = torch.from_numpy(np.asarray(Image.open(tmp_path / "val" / "n01440764" / "a.JPEG")).copy())
    assert torch.equal(image, original[38:262, 16:240].permute(2, 0, 1) / 255)
    assert label == 0 and data.num_classes == 1000
    with pytest.raises(FileNotFoundError, match="n01440764"):
        ImageNet(tmp_path / "nowhere").setup("test")


def test_a_timm_models_crop_is_used_by_its_name(root):
    data = ImageFiles(root, timm_model="test_resnet")
    (batch,) = data.predict_dataloader()
    labelled = [Folder(root, timm_model="test_resnet"), CelebAHQ(root, timm_model="test_resnet")]
    assert batch[0].shape[1:] == (3, 160, 160)
    assert {module.shape for module in labelled} == {(3, 160, 160)}
    assert ImageNet(root, size=64, timm_model="test_resnet").crop.config == data.crop.config


@pytest.fixture
def faces(tmp_path):
    for i in (0, 2, 10, 11):
        save_image(tmp_path / "CelebA-HQ-img" / f"{i}.jpg", seed=i, size=(20, 20))
    rows = ["0.jpg -1  1", "1.jpg  1  1", "2.jpg  1 -1", "10.jpg -1 1", "11.jpg 1 -1"]
    lines = ["5", "Eyeglasses Smiling", *rows]
    (tmp_path / "CelebAMask-HQ-attribute-anno.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "ragged.txt").write_text("2\nEyeglasses Smiling\n0.jpg 1 1\n2.jpg 1\n")
    (tmp_path / "parts.txt").write_text("0.jpg 0\n2.jpg 1\n10.jpg 2\n11.jpg 2\n")
    return tmp_path


def test_celeba_hq_labels_are_one_attribute(faces):
    data = CelebAHQ(faces, "Eyeglasses", size=16)
    data.setup("test")
    image, label, index = loaded(data.test_dataloader())
    assert image.shape == (4, 3, 16, 16)
    assert label == [0, 1, 0, 1] and index == [0, 1, 2, 3]  # 0, 2, 10, 11: 1.jpg is not there
    assert data.held_out.names == ["0.jpg", "2.jpg", "10.jpg", "11.jpg"]
    assert data.classes == ("not Eyeglasses", "Eyeglasses")
    smiling = CelebAHQ(faces, size=16)
    smiling.setup("test")
    assert smiling.held_out.labels.tolist() == [1, 0, 1, 0]
    assert smiling.identity() != data.identity()


def test_celeba_hq_in_parts(faces):
    data = CelebAHQ(faces, partition="parts.txt", size=16)
    data.setup("fit")
    assert [part.names for part in (data.train, data.val)] == [["0.jpg"], ["2.jpg"]]
    data.setup("test")
    assert data.held_out.names == ["10.jpg", "11.jpg"]


@pytest.mark.parametrize(
    ("options", "stage", "message"),
    [
        ({"attribute": "Happy"}, "test", "Eyeglasses, Smiling; got 'Happy'"),
        ({"attributes": "list.txt"}, "test", "no file .*list.txt"),
        ({"images": "nowhere"}, "test", "none of the images"),
        ({"partition": "none.txt"}, "test", "no file .*none.txt"),
        ({"partition": "CelebAMask-HQ-attribute-anno.txt"}, "test", "0, 1 or 2 per line; got '5'"),
        ({"attributes": "ragged.txt"}, "test", "ragged.txt must give .* for 2.jpg"),
        ({}, "fit", "part 0"),
    ],
)
def test_missing_parts_of_celeba_hq_are_named(faces, options, stage, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        CelebAHQ(faces, **options).setup(stage)
