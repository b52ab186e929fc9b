"""The command ``predict`` of a smoothed classifier: class or abstention, with the p-value, in the table."""

import csv

import pytest
import torch
import yaml
from torch import nn

import cli
from common.noise import Noise
from common.robustness import Certified, Clean, Forecast, NetworkClassifier, Smoothing
from common.tasks.prediction import smoothed_predictions


def table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_table_has_class_or_abstention_and_p_value(weights, tmp_path):
    """A plain digits classifier under noise of 0.5 is undecided on some of 12 images; the rows are those of PREDICT."""
    smoothing = {"sigma": 0.5, "n0": 1, "n": 40, "alpha": 0.01, "num_classes": 10}
    config = {
        "model": {
            "class_path": "common.tasks.RobustTask",
            "init_args": {
                "classifier": {
                    "class_path": "common.checkpoints.load_classifier",
                    "init_args": {"path": str(weights / "classifier.safetensors")},
                },
                "evaluators": [
                    {
                        "class_path": "common.robustness.Certified",
                        "init_args": {
                            "smoothing": {"class_path": "common.robustness.Smoothing", "init_args": smoothing},
                            "seed": 4,
                        },
                    }
                ],
            },
        },
        "data": {"class_path": "common.data.Digits", "init_args": {"batch_size": 5, "test_images": 12}},
        "trainer": {"logger": False, "enable_progress_bar": False, "accelerator": "cpu",
                    "default_root_dir": str(tmp_path)},
    }  # fmt: skip
    (tmp_path / "smoothed.yaml").write_text(yaml.safe_dump(config))
    cli.main(["predict", "-c", str(tmp_path / "smoothed.yaml"), "--out", str(tmp_path / "out")])
    rows = table(tmp_path / "out" / "predictions.csv")

    from common.checkpoints import load_classifier
    from common.data import Digits

    data = Digits()
    data.setup("test")
    classifier = load_classifier(weights / "classifier.safetensors").freeze()
    noise = Noise.of(4, torch.arange(12)).stream("smoothing")
    expected = Smoothing(**smoothing).predict(classifier, data.held_out.images[:12], noise)
    assert [row["smoothed"] for row in rows] == [
        str(e.prediction) if e.prediction >= 0 else "abstain" for e in expected
    ]
    assert [float(row["smoothed_p_value"]) for row in rows] == pytest.approx([e.p_value for e in expected], rel=1e-5)
    assert {row["smoothed"] == "abstain" for row in rows} == {True, False}
    assert all(row["smoothed_class"] == row["smoothed"] for row in rows if row["smoothed"] != "abstain")
    assert all("before" in row for row in rows)


class Flat(nn.Module):
    def forward(self, image):
        return image.flatten(1)[:, :3]


def test_without_smoothing_there_is_no_smoothed_prediction():
    batch = torch.rand(2, 1, 2, 2), torch.zeros(2).long(), torch.arange(2)
    forecast = Forecast(0.25, n0=100, n=1000, num_classes=3, targets=[0.25])
    assert smoothed_predictions(NetworkClassifier(Flat()), batch, [Clean(), Certified(forecast)]) is None
    found = smoothed_predictions(NetworkClassifier(Flat()), batch, [Certified(Smoothing(0.25, 1, 20, num_classes=3))])
    assert [one.samples for one in found] == [20, 20]


def test_unsound_classifiers_are_refused():
    class Stateful(nn.Module):
        def forward(self, image):
            return torch.rand(len(image), 3)

    batch = torch.rand(2, 1, 2, 2), torch.zeros(2).long(), torch.arange(2)
    with pytest.raises(ValueError, match="a certificate needs a repeatable classifier"):
        smoothed_predictions(NetworkClassifier(Stateful()), batch, [Certified(Smoothing(0.25, 1, 20, num_classes=3))])
