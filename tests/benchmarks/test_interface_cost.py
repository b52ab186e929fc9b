"""Processor time of `evaluate` against the same evaluation by YAML, in one process."""

import time
from statistics import median

import pytest
import yaml

import cli
from common.api import evaluate
from common.checkpoints import save
from common.data import Digits
from common.networks import SmallCNN
from common.robustness import PGD, Attacked, Clean, NetworkClassifier

pytestmark = pytest.mark.bench

ROUNDS = 5


def seconds(function, *arguments):
    start = time.process_time()
    function(*arguments)
    return time.process_time() - start


def test_evaluate_is_no_slower_than_the_same_by_yaml(tmp_path, monkeypatch):
    """Median of five rounds; 128 digits, PGD of 20 steps, with the gradient check."""
    monkeypatch.chdir(tmp_path)
    network = SmallCNN(num_classes=10, in_channels=1)
    save(NetworkClassifier(network), tmp_path / "classifier.safetensors")
    attack = {"class_path": "common.robustness.PGD", "init_args": {"steps": 20}}
    config = {
        "model": {
            "class_path": "common.tasks.RobustTask",
            "init_args": {
                "classifier": {
                    "class_path": "common.checkpoints.load_classifier",
                    "init_args": {"path": str(tmp_path / "classifier.safetensors")},
                },
                "threat": {"class_path": "common.robustness.ThreatModel", "init_args": {"norm": "inf", "eps": 0.1}},
                "evaluators": [
                    {"class_path": "common.robustness.Clean"},
                    {"class_path": "common.robustness.Attacked", "init_args": {"attack": attack}},
                ],
            },
        },
        "data": {"class_path": "common.data.Digits", "init_args": {"test_images": 128}},
        "trainer": {"logger": False, "enable_progress_bar": False, "accelerator": "cpu"},
    }
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(config))
    options = {"suite": [Clean(), Attacked(PGD(steps=20))], "accelerator": "cpu", "progress": False}

    def by_yaml(records):
        cli.main(["test", "-c", str(tmp_path / "test.yaml"), f"--model.init_args.records={records}"])

    def by_call(records):
        evaluate(network, Digits(test_images=128), threat="Linf 0.1", records=records, **options)

    yamls = [seconds(by_yaml, tmp_path / f"yaml-{number}") for number in range(ROUNDS)]
    calls = [seconds(by_call, tmp_path / f"call-{number}") for number in range(ROUNDS)]
    print(f"evaluate {median(calls):.2f} s, YAML {median(yamls):.2f} s of processor time")
    assert median(calls) <= 1.05 * median(yamls)
