"""Mistakes of a first hour: each refused in one sentence with the remedy, before a network runs where possible."""

import math
import sys
import types
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from common.api import certify, compare, evaluate
from common.api.arguments import PlainPurifier, as_classifier, as_threat, name_of
from common.api.running import choose_device
from common.data import Digits
from common.diffusion import Purifier
from common.robustness import PGD, NetworkClassifier, Purified
from common.robustness.threats.spatial import SpatialThreat

IMAGES, LABELS = torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3
QUIET = {"progress": False, "accelerator": "cpu"}


class Net(nn.Module):
    """A linear network of three classes that counts its calls; ``head`` is applied to the logits."""

    not_identifying = frozenset({"_calls"})

    def __init__(self, head=None):
        super().__init__()
        self.linear, self._calls, self.head = nn.Linear(48, 3), [], head or nn.Identity()

    def forward(self, image):
        self._calls.append(len(image))
        return self.head(self.linear(image.flatten(1)))


IMAGE_MISTAKES = {
    "bytes": (IMAGES.mul(255).byte(), r"torch.uint8. Write images.float\(\) / 255"),
    "0 to 255": (IMAGES * 255, r"in \[0,1\]; got .* to 25\d.*. Write images / 255"),
    "0 to 16": (IMAGES * 16, r"got .* to 1\d.*. Divide by the largest value that a pixel can have"),
    "no channels": (IMAGES[:, 0], r"\(6, 4, 4\). Write images\[:, None\] for grey images"),
    "normalised": ((IMAGES - 0.5) / 0.2, r"in \[0,1\].*NetworkClassifier\(network, mean, std\)"),
    "channels last": (IMAGES.permute(0, 2, 3, 1), r"\(6, 4, 4, 3\). Write images.permute\(0, 3, 1, 2\)"),
    "one image": (IMAGES[0], r"\(3, 4, 4\). Write images\[None\]"),
    "flat": (IMAGES.flatten(1), r"shape \(N,C,H,W\) with N >= 1; got \(6, 48\)"),
    "none": (IMAGES[:0], r"N >= 1; got \(0, 3, 4, 4\)"),
    "not finite": (IMAGES.where(IMAGES < 0.9, math.nan), "finite; got NaN"),
    "class": (Digits, r"got type Digits. Write Digits\(...\)"),
    "array": (IMAGES.numpy(), r"torch.from_numpy\(images\)"),
    "path": ("images/", r"a tensor \(N,C,H,W\) in \[0,1\]; got str. .*Folder\(root="),
    "loader": (DataLoader(TensorDataset(IMAGES, LABELS)), "Pass loader.dataset"),
}
LABEL_MISTAKES = {
    "missing": (None, r"labels are missing: one class number per image"),
    "one-hot": (torch.eye(3)[LABELS], r"\(6, 3\). Write labels.argmax\(1\)"),
    "column": (LABELS[:, None], r"\(6, 1\). Write labels.squeeze\(1\)"),
    "too few": (LABELS[:4], r"shape \(6,\), one class number per image; got \(4,\)"),
    "floats": (LABELS.float(), r"torch.float32. Write labels.long\(\)"),
    "negative": (LABELS - 1, r"in 0..K-1; got -1"),
    "names": (["cat", "dog"] * 3, r"a tensor \(N,\) of class numbers; got a list"),
}


@pytest.mark.parametrize("name", IMAGE_MISTAKES)
@pytest.mark.parametrize("run", [evaluate, certify])
def test_images(run, name):
    network, (images, message) = Net(), IMAGE_MISTAKES[name]
    with pytest.raises(ValueError, match=message):
        run(network, images, LABELS, **QUIET)
    assert not network._calls


@pytest.mark.parametrize("name", LABEL_MISTAKES)
def test_labels(name):
    network, (labels, message) = Net(), LABEL_MISTAKES[name]
    with pytest.raises(ValueError, match=message):
        evaluate(network, IMAGES, labels, **QUIET)
    assert not network._calls


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threat": "8/255"}, r"'Linf 8/255', 'L2 0.5' or 'L1 12', or a Threat; got '8/255'"),
        ({"threat": "Linf"}, "got 'Linf'"),
        ({"threat": "L3 0.5"}, "got 'L3 0.5'"),
        ({"threat": 8 / 255}, "got 0.03"),
        ({"threat": "Linf 8"}, r"0 < eps <= 1; got 8.0. Write 8/255"),
        ({"threat": "L2 half"}, "eps must be a number or a ratio such as 8/255; got 'half'"),
        ({"suite": "quik"}, r"no suite is named 'quik': did you mean 'quick'\?"),
        ({"suite": "everything"}, "the suites are gold, perceptual, quick, standard"),
        ({"suite": []}, "at least one evaluator"),
        ({"suite": ["PGD"]}, r"attacks such as PGD\(steps=20\).*; got str"),
        ({"draws": 0}, "draws must be an integer >= 1"),
        ({"batch_size": 0}, "batch_size must be an integer >= 1"),
        ({"verify": "maybe"}, "verify must be one of refuse, warn, off"),
        ({"accelerator": "gpu"}, "accelerator 'gpu': torch sees no such device here"),
        ({"masking": -1}, "masking, a number of images, must be an integer >= 0"),
    ],
)
def test_other_arguments_of_evaluate(arguments, message, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    network = Net()
    with pytest.raises(ValueError, match=message):
        evaluate(network, IMAGES, LABELS, **{**QUIET, **arguments})
    assert len(network._calls) <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sigma": 0}, "sigma must be above 0"),
        ({"sigma": "a quarter"}, "sigma must be a number or a ratio"),
        ({"n": 5}, "1 <= n0 <= n; got n0=100, n=5"),
        ({"alpha": 1}, "alpha, the chance of a wrong certificate, must be a finite number > 0 and < 1"),
    ],
)
def test_other_arguments_of_certify(arguments, message):
    network = Net()
    with pytest.raises(ValueError, match=message):
        certify(network, IMAGES, LABELS, **QUIET, **arguments)
    assert not network._calls


@pytest.mark.parametrize(
    ("defence", "labels", "message"),
    [
        (Net(lambda z: z.view(-1, 1, 3)), LABELS, r"logits \(B,K\), K >= 2; got \(2, 1, 3\) .* squeeze it"),
        (Net(lambda z: z[:, 0]), LABELS, r"got \(2,\) for 2 images: return one number per class"),
        (Net(lambda z: z[:, :1]), LABELS, r"got \(2, 1\) .* also of two"),
        (Net(lambda z: z[:1]), LABELS, r"got \(1, 3\) for 2 images"),
        (Net(lambda z: (z, z)), LABELS, "a tensor .*; got tuple. Return its logits alone"),
        (Net(lambda z: z * math.nan), LABELS, "logits are NaN or infinite on the first images"),
        (Net(), LABELS + 1, r"in 0..2, the defence has 3 classes; got 3. Subtract 1"),
        (Net(), LABELS * 4, r"in 0..2, the defence has 3 classes; got 8.$"),
        (Net(lambda z: z.sum(4)), LABELS, r"fails on images of shape \(2, 3, 4, 4\): Dimension out of range"),
        (nn.Sequential(nn.Flatten(), nn.Linear(7, 3)), LABELS, r"fails on images of shape \(2, 3, 4, 4\): mat1"),
        (Net().double(), LABELS, r"fails on .* parameters torch.float64: pass module.float\(\)"),
    ],
)
@pytest.mark.parametrize("run", [evaluate, certify])
def test_outputs_of_the_defence(run, defence, labels, message):
    with pytest.raises(ValueError, match=message):
        run(defence, IMAGES, labels, **QUIET)


class Dither(nn.Module):
    """A randomised purifier; one that forgets that noise has the shape of one image."""

    def __init__(self, whole_batch=False):
        super().__init__()
        self.whole_batch = whole_batch

    def forward(self, image, noise):
        return image + 0.01 * noise.normal(0, image.shape if self.whole_batch else image.shape[1:])


@pytest.mark.parametrize(
    ("defence", "message"),
    [
        (Net, r"got a type. Write Net\(...\)"),
        ((Dither, Net()), r"got a tuple of 2. Write Dither\(...\)"),
        (Dither(), r"of a purifier, pass the pair \(purifier, classifier\)"),
        ((Dither(whole_batch=True), Net()), r"noise.normal\(step, image.shape\[1:\]\)"),
    ],
)
@pytest.mark.parametrize("run", [evaluate, certify])
def test_parts_of_the_defence(run, defence, message):
    with pytest.raises(ValueError, match=message):
        run(defence, IMAGES, LABELS, **QUIET)


def test_records_without_a_name():
    with pytest.raises(ValueError, match="records must be a directory, or None; got an empty text"):
        evaluate(Net(), IMAGES, LABELS, records="", **QUIET)


def test_labels_beside_a_data_module():
    with pytest.raises(ValueError, match="Digits has labels of its own: leave out labels"):
        evaluate(Net(), Digits(), LABELS, **QUIET)


@pytest.mark.parametrize("defence", [lambda x: x, "resnet", (Net(), "resnet"), (Net(), Net(), Net()), Net])
def test_a_defence_that_is_no_module(defence):
    with pytest.raises(ValueError, match=r"defence must be an nn\.Module from pixels to logits, or a pair"):
        evaluate(defence, IMAGES, LABELS, **QUIET)


@pytest.mark.parametrize(
    "network", [Net(lambda z: z.softmax(1)), nn.Sequential(nn.Flatten(), nn.Linear(48, 3), nn.Softmax(1))]
)
def test_probabilities_are_warned_of(network):
    with pytest.warns(UserWarning, match="returns probabilities, not logits.*Remove the softmax"):
        certify(network, IMAGES, LABELS, n=10, n0=2, **QUIET)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        certify(Net(), IMAGES, LABELS, n=10, n0=2, **QUIET)


def test_forms_of_a_threat():
    for text in ("Linf 8/255", "linf 8/255", "L-inf=8/255", "L∞, 8/255", "L_inf: 8 / 255", "inf 8/255", "Linf(8/255)"):
        assert (as_threat(text).name, as_threat(text).eps) == ("Linf", 8 / 255)
    assert (as_threat("L2 0.5").name, as_threat("l1 12").eps) == ("L2", 12.0)
    spatial = SpatialThreat(0.05)
    assert as_threat(spatial) is spatial


def test_forms_of_images_and_labels(tmp_path):
    """Double precision, lists, arrays and data sets are the same images."""
    runs = [
        (IMAGES, LABELS),
        (IMAGES.double().requires_grad_(), LABELS.tolist()),
        (IMAGES, LABELS.to(torch.int32)),
        (IMAGES, np.array(LABELS.tolist())),
        (TensorDataset(IMAGES, LABELS), None),
    ]
    network = Net()
    arguments = {"n": 20, "n0": 5, "records": tmp_path / "records", **QUIET}
    results = [certify(network, images, labels, **arguments) for images, labels in runs]
    assert all(result.records == results[0].records for result in results)
    assert len({result.run.fingerprint for result in results}) == 1


class Noisy(nn.Module):
    def forward(self, image, noise):
        return image + 0.1 * noise.normal(0, image.shape[1:])


class Plain(nn.Module):
    def forward(self, image):
        return image.round()


class Own(Purifier):
    """A purifier of the user, without ``diffuse``."""

    def forward(self, image, noise=None):
        return image + 0.1 * noise.normal(0, image.shape[1:])


def test_a_subclass_of_purifier_needs_forward_alone():
    result = evaluate([Own(), Net()], IMAGES, LABELS, suite=[PGD(steps=1)], **QUIET)
    assert (result.run.name, result.robust.images) == ("Own + Net", 6)


def test_a_pair_of_purifier_and_network():
    plain, noisy = as_classifier((Plain(), Net())), as_classifier((Noisy(), Net()))
    assert isinstance(plain, Purified)
    assert isinstance(plain.purifier, PlainPurifier)
    assert not plain.randomised
    assert noisy.randomised
    assert isinstance(noisy.purifier, Noisy)
    assert [name_of(one) for one in (plain, noisy, as_classifier(Net()))] == ["Plain + Net", "Noisy + Net", "Net"]
    assert torch.equal(plain(IMAGES), plain.classifier(IMAGES.round()))
    classifier = NetworkClassifier(Net())
    assert as_classifier(classifier) is classifier
    result = evaluate((Noisy(), Net()), IMAGES, LABELS, suite="quick", draws=3, **QUIET)
    assert result.worst_draw is not None
    assert {len(row.predictions) for row in result.records} == {3}


class Random(Net):
    """Logits with noise of its own."""

    def forward(self, image, *, noise):
        return super().forward(image) + noise.normal(0, (3,))


def test_a_network_that_takes_noise_is_randomised():
    result = evaluate(Random(), IMAGES, LABELS, suite="quick", draws=4, **QUIET)
    assert result.run.name == "Random"
    assert {len(row.predictions) for row in result.records} == {4}
    assert any(len(set(row.predictions)) > 1 for row in result.records)
    fixed = Random()
    fixed.randomised = False
    assert not as_classifier(fixed).randomised


def test_pandas(monkeypatch):
    result = certify(Net(), IMAGES, LABELS, n=20, n0=5, **QUIET)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        result.to_pandas()
    monkeypatch.setitem(sys.modules, "pandas", types.SimpleNamespace(DataFrame=lambda rows: rows))
    table = result.to_pandas()
    assert [row["index"] for row in table] == [*range(6)]
    assert {"kind", "evaluator", "label", "radius", "cost_seconds"} <= set(table[0])
    assert table[0]["kind"] == "certified"


@pytest.mark.parametrize(
    ("given", "advice"), [("cudaa", r" Did you mean cuda\?"), ("GPU:", " Did you mean gpu"), (3.5, "")]
)
def test_an_accelerator_is_a_device(given, advice):
    with pytest.raises(ValueError, match=rf"accelerator must be auto, cpu, gpu or cuda:N; got .*\.{advice}"):
        choose_device(as_classifier(Net()), given)


@pytest.mark.parametrize("given", [[], 3, [3], None, "ab"])
def test_results_are_compared_in_a_list(given):
    with pytest.raises(ValueError, match=r"compare needs a list of results; got .*compare\(\[first, second\]\)"):
        compare(given)
