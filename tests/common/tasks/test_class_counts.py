"""A missing class, classes sorted as text, and a classifier of another number of classes are refused or named."""

import lightning as L
import pytest
import robust_diffusion as rd
import torch
from PIL import Image
from torch import nn
from torch.utils.data import Dataset

from common.data.folders import Folder
from common.data.in_memory import InMemory
from common.networks import SmallCNN
from common.robustness import Clean, NetworkClassifier
from common.tasks.classifier import ClassifierTask
from common.tasks.robust import RobustTask


class Oracle(nn.Module):
    """Class k of K for a grey level of about 20 k."""

    def __init__(self, classes):
        super().__init__()
        self.levels = 20 * torch.arange(classes) / 255

    def forward(self, x):
        return -100 * (x.mean((1, 2, 3))[:, None] - self.levels).abs()


def folders(root, names):
    """A grey image per class folder, of level 20 times the number in its name."""
    for name in names:
        (root / name).mkdir(parents=True)
        Image.new("RGB", (4, 4), (20 * int("".join(filter(str.isdecimal, name))),) * 3).save(root / name / "a.png")
    return root


def accuracy(tmp_path, data, classes=4):
    """Clean accuracy of the oracle; its records lie in a new folder."""
    number = len(list(tmp_path.glob("records*")))
    task = RobustTask(NetworkClassifier(Oracle(classes)), [Clean()], str(tmp_path / f"records{number}"), verify="off")
    trainer = L.Trainer(logger=False, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False,
                        inference_mode=False, default_root_dir=tmp_path)  # fmt: skip
    trainer.test(task, datamodule=data, verbose=False)
    return float(next(iter(trainer.callback_metrics.values())))


def test_a_missing_class_folder_is_refused(tmp_path):
    assert accuracy(tmp_path, Folder(folders(tmp_path / "all", "0123"))) == 1
    missing = folders(tmp_path / "missing", "023")
    with pytest.raises(ValueError, match=r"the data has 3 classes, the classifier 4"):
        accuracy(tmp_path, Folder(missing))
    assert accuracy(tmp_path, Folder(missing, classes=[0, 1, 2, 3])) == 1


def test_fewer_classes_than_logits_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"the data has 4 classes, the classifier 10"):
        accuracy(tmp_path, Folder(folders(tmp_path / "all", "0123")), classes=10)
    image, label = torch.zeros(2, 3, 4, 4), torch.tensor([0, 1])
    assert accuracy(tmp_path, InMemory(image, label)) == 0.5
    with pytest.raises(ValueError, match=r"the data has 5 classes, the classifier 4"):
        accuracy(tmp_path, InMemory(image, label, 5))


class Named(Dataset):
    """A data set as torchvision's, with the names of its classes."""

    def __init__(self, classes):
        self.classes = classes

    def __len__(self):
        return 2

    def __getitem__(self, position):
        return torch.full((3, 4, 4), 20 * position / 255), position


def test_a_data_set_names_its_classes(tmp_path):
    options = {"suite": [Clean()], "progress": False, "accelerator": "cpu"}
    assert rd.evaluate(Oracle(3), Named(["a", "b", "c"]), **options).clean.value == 1
    with pytest.raises(ValueError, match=r"the data has 2 classes, the classifier 3"):
        rd.evaluate(Oracle(3), Named(["a", "b"]), **options)


def test_numbers_sorted_as_text_are_named(tmp_path):
    root = folders(tmp_path / "numbers", ["1", "2", "10"])
    data = Folder(root)
    with pytest.warns(UserWarning, match=r"sorts the classes as text: 1, 10, 2, .*data.init_args.classes"):
        data.setup("test")
    assert data.held_out.labels.tolist() == [0, 1, 2]
    names = tmp_path / "names.txt"
    names.write_text("1\n2\n10\n")
    for listed in (["1", "2", "10"], [1, 2, 10], names):
        ordered = Folder(root, classes=listed)
        ordered.setup("test")
        assert ordered.folders == ["1", "2", "10"]
        assert sorted(ordered.held_out.labels.tolist()) == [0, 1, 2]
        assert ordered.identity() != data.identity()


def test_a_list_of_classes_is_checked(tmp_path):
    root = folders(tmp_path / "all", "0123")
    with pytest.raises(ValueError, match=r"classes must list all class folders; .*also has \['3'\]"):
        Folder(root, classes=["0", "1", "2"]).setup("test")
    for wrong in ([], ["0", "0"], [0.5, 1], "nowhere.txt", 3):
        with pytest.raises(ValueError, match="classes"):
            Folder(root, classes=wrong)


@pytest.mark.parametrize("classes", [3, 10])
def test_a_training_on_data_of_another_number_of_classes_is_refused(tmp_path, classes):
    task = ClassifierTask(NetworkClassifier(SmallCNN(num_classes=classes)), num_classes=classes)
    trainer = L.Trainer(logger=False, accelerator="cpu", enable_progress_bar=False, default_root_dir=tmp_path)
    for split in ("val", "test"):
        folders(tmp_path / "all" / split, "0123")
    with pytest.raises(ValueError, match=rf"the data has 4 classes, the network to train {classes}.*class folder"):
        trainer.fit(task, datamodule=Folder(folders(tmp_path / "all" / "train", "0123").parent))
