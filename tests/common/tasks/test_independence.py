"""Logits that depend on other images, on the place in a batch or on earlier calls are warned of before a test."""

import warnings

import lightning as L
import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader

from common.records.store import Records
from common.robustness import Attacked, Classifier, Clean, Square, Voting
from common.tasks.independence import dependence
from common.tasks.robust import RobustTask
from tests.common.tasks.test_resuming import BALL, Images
from tests.defences import batch, diffpure, head


class Changed(Classifier):
    """A head whose images ``change`` before it sees them."""

    not_identifying = frozenset({"calls"})

    def __init__(self, change):
        super().__init__()
        self.inner, self.change, self.calls = head(), change, 0

    def forward(self, image, noise=None):
        self.calls += 1
        return self.inner(self.change(image, self.calls))


def seeded(image, calls):
    generator = torch.Generator().manual_seed(0)
    return image + 0.5 * torch.randn(image.shape, generator=generator)


CALLS = {
    "dropout": lambda image, calls: F.dropout(image, 0.5, True),
    "a global generator": lambda image, calls: image + torch.randn_like(image),
    "a counter": lambda image, calls: image.roll(calls, -1),
    "an order of classes": lambda image, calls: image[:, :, torch.randperm(4)],
}
ROWS = {
    "the mean of the batch": lambda image, calls: image - image.mean(0, keepdim=True),
    "batch statistics": lambda image, calls: F.batch_norm(image, None, None, training=True),
    "noise by place": seeded,
    "the number of images": lambda image, calls: image / len(image),
    "the first image": lambda image, calls: image + image[:1],
}


@pytest.mark.parametrize("name", [*CALLS, *ROWS])
def test_dependence_is_described(name):
    change = (CALLS | ROWS)[name]
    torch.manual_seed(0)
    expected = "two calls of the classifier" if name in CALLS else "its place in the batch or on the other images"
    assert expected in dependence(Changed(change), batch(2))


@pytest.mark.parametrize(
    "classifier",
    [head(), diffpure(), Voting(diffpure(), 3), Changed(lambda image, calls: image + 1e-6 * calls)],
    ids=["head", "diffpure", "voting", "counting"],
)
def test_a_function_of_image_and_noise_passes(classifier):
    for images in (1, 2):
        assert dependence(classifier, batch(images)) == ""


OPTIONS = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}


@pytest.mark.parametrize(
    ("evaluator", "verify", "warned"),
    [(Clean(), "refuse", True), (Attacked(Square(3), BALL), "warn", True), (Clean(), "off", False)],
)
def test_a_test_warns_before_it_runs(tmp_path, evaluator, verify, warned):
    image, label, _ = batch(5)
    data = DataLoader(Images(image, label), batch_size=2)
    task = RobustTask(Changed(ROWS["the mean of the batch"]), [evaluator], str(tmp_path), verify=verify, masking=0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        L.Trainer(**OPTIONS, inference_mode=False, enable_model_summary=False).test(task, data, verbose=False)
    assert len(Records.read(tmp_path)) == 5
    assert any("on the other images" in str(one.message) for one in caught) == warned
