"""Trainings and predictions that a signal ends: the state is saved, the same command goes on, with the same result."""

import os
import signal
from pathlib import Path

import pytest
import torch
import yaml

import cli
from tests.forked import fork

ROOT = Path(__file__).parents[3]


def fit_config(folder, name, **trainer):
    """A short training of 2 epochs with 4 steps, validated twice an epoch; its best epoch is exported."""
    path = folder / f"{name}.yaml"
    keeper = {
        "dirpath": str(folder / name),
        "monitor": "val/accuracy",
        "mode": "max",
        "save_last": True,
        "save_top_k": -1,
    }
    settings = {
        "base": [str(ROOT / "configs" / "tour" / "01-classifier.fit.yaml")],
        "model": {"init_args": {"export": str(folder / f"{name}.safetensors")}},
        "data": {"init_args": {"batch_size": 300}},
        "trainer": {
            "accelerator": "cpu",
            "max_epochs": 2,
            "limit_val_batches": 2,
            "enable_progress_bar": False,
            "enable_checkpointing": True,
            "callbacks": [{"class_path": "ModelCheckpoint", "init_args": keeper}],
            "default_root_dir": str(folder),
        }
        | trainer,
    }
    path.write_text(yaml.safe_dump(settings))
    return str(path)


def at_step(steps, place="training_step", name="SIGTERM"):
    """A change that sends this process a signal during its ``steps``-th call of a hook."""

    def change():
        from common.tasks.classifier import ClassifierTask

        hook, calls = getattr(ClassifierTask, place), []

        def hooked(self, *args, **kwargs):
            calls.append(1)
            if len(calls) == steps:
                os.kill(os.getpid(), getattr(signal, name))
            return hook(self, *args, **kwargs)

        setattr(ClassifierTask, place, hooked)

    return change


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The export of a training without an interruption."""
    folder = tmp_path_factory.mktemp("straight")
    cli.main(["fit", "-c", fit_config(folder, "straight", val_check_interval=2)])
    return result(folder, "straight")


def result(folder, name):
    """The exported file, and the scores of all validations."""
    states = torch.load(folder / name / "last.ckpt", weights_only=True)["callbacks"].values()
    (state,) = [state for state in states if "best_k_models" in state]
    scores = {Path(path).name: float(score) for path, score in state["best_k_models"].items()}
    return (folder / f"{name}.safetensors").read_bytes(), scores


@pytest.mark.parametrize(("place", "steps", "where"), [
    ("training_step", 1, "epoch 0, step 1"),
    ("training_step", 2, "the validation after epoch 0, step 2"),
    ("validation_step", 3, "the validation after epoch 0, step 4"),
    ("training_step", 8, "the validation after epoch 1, step 8"),
])  # fmt: skip
def test_a_training_goes_on_from_where_a_signal_ended_it(tmp_path, straight, place, steps, where):
    """A validation that has begun is left after the batch in hand, and begins anew; so after the very last step."""
    config = fit_config(tmp_path, "broken", val_check_interval=2)
    run = fork(["fit", "-c", config], tmp_path / "log", at_step(steps, place))
    assert run.wait() == 143, run.output
    advice = f"; the same command with --ckpt_path {tmp_path / 'broken.last-interrupted.ckpt'} goes on"
    assert run.output.splitlines()[-1] == f"interrupted in {where}{advice}"
    assert not (tmp_path / "broken.safetensors").exists()
    cli.main(["fit", "-c", config, "--ckpt_path", "last"])
    assert result(tmp_path, "broken") == straight
    assert not list(tmp_path.glob("*interrupted*"))


def test_averaged_weights_are_restored_in_an_interrupted_validation(tmp_path):
    """They take the place of the trained ones during a validation."""
    averaging = {"class_path": "lightning.pytorch.callbacks.EMAWeightAveraging", "init_args": {"decay": 0.5}}
    found = []
    for name in ("straight", "broken"):
        config = fit_config(tmp_path, name, max_epochs=1, limit_train_batches=3, val_check_interval=2)
        settings = yaml.safe_load(Path(config).read_text())
        settings["trainer"]["callbacks"].append(averaging)
        Path(config).write_text(yaml.safe_dump(settings))
        if name == "broken":
            run = fork(["fit", "-c", config], tmp_path / "log", at_step(1, "validation_step"))
            assert run.wait() == 143, run.output
        cli.main(["fit", "-c", config, *(["--ckpt_path", "last"] if name == "broken" else [])])
        found.append(result(tmp_path, name))
    assert found[0] == found[1]


def test_a_signal_while_weights_are_exported_ends_the_training_when_they_are(tmp_path, straight):
    config = fit_config(tmp_path, "late", val_check_interval=2)

    def change():
        from common.tasks.training import TrainingTask

        save = TrainingTask._save
        TrainingTask._save = lambda self, export: (os.kill(os.getpid(), signal.SIGTERM), save(self, export))

    run = fork(["fit", "-c", config], tmp_path / "log", change)
    assert (run.wait(), run.output.splitlines()[-1]) == (143, "interrupted at its end; all of it was done")
    assert result(tmp_path, "late") == straight


def test_a_killed_training_with_shorter_epochs_goes_on_from_the_end_of_one(tmp_path):
    """``limit_train_batches`` ends an epoch before its data; the next one begins with its own first batch."""
    found = []
    for name, step in (("straight", 99), ("killed", 5)):
        config = fit_config(tmp_path, name, limit_train_batches=3)
        run = fork(["fit", "-c", config], tmp_path / "log", at_step(step, name="SIGKILL"))
        assert run.wait() == (0 if name == "straight" else 137)
        if name == "killed":
            cli.main(["fit", "-c", config, "--ckpt_path", str(tmp_path / name / "last.ckpt")])
        found.append(result(tmp_path, name))
    assert found[0] == found[1]


def test_a_training_without_a_place_for_its_state_says_so(tmp_path):
    """The shared folder ``runs`` is no such place: another run would go on from there."""
    config = fit_config(tmp_path, "broken", callbacks=[], default_root_dir="runs", logger=False)
    arguments = ["fit", "-c", config, "--model.init_args.export=null", "--trainer.enable_checkpointing=false"]
    before = set(ROOT.glob("runs/*.ckpt"))
    run = fork(arguments, tmp_path / "log", at_step(1))
    assert run.wait() == 143
    assert "interrupted in epoch 0, step 1; nothing was saved: give model.init_args.export" in run.output
    assert set(ROOT.glob("runs/*.ckpt")) == before


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_prediction_ends_after_the_batch_in_hand(tiny_test, tmp_path, name):
    def change():
        from common.tasks.save_predictions import SavePredictions

        rows, calls = SavePredictions._rows, []

        def made(self, prediction):
            calls.append(1)
            if len(calls) == 2:
                os.kill(os.getpid(), getattr(signal, name))
            return rows(self, prediction)

        SavePredictions._rows = made

    arguments = ["predict", "-c", str(tiny_test(data={"batch_size": 2})), "--out", str(tmp_path / "out")]
    run = fork(arguments, tmp_path / "log", change)
    assert run.wait() == 128 + getattr(signal, name)
    assert run.output.splitlines()[-1].startswith("interrupted after 4 of 13 images")
    assert len(list((tmp_path / "out").rglob("*.png"))) == 4
