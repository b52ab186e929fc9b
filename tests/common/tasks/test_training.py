"""Checks of training: batches, recipes, exports and checkpoints."""

import math
from pathlib import Path

import pytest
import torch

from agdm.networks import GuidanceNetwork
from agdm.objective import Trades
from agdm.task import GuidanceTask
from common.diffusion.denoisers import EDMDenoiser
from common.diffusion.networks import DDPMpp
from common.networks import SmallCNN
from common.robustness.classifiers import NetworkClassifier
from common.robustness.threats.norm_ball import ThreatModel
from common.tasks import ClassifierTask, DenoiserTask
from common.tasks.recipes import Recipe


def classifier_task():
    return ClassifierTask(NetworkClassifier(SmallCNN(num_classes=10, in_channels=1)))


def denoiser_task():
    body = DDPMpp(
        img_resolution=8, img_channels=1, label_dim=10, model_channels=8, channel_mult=[1], num_blocks=1,
        attn_resolutions=[], dropout=0.0,
    )  # fmt: skip
    return DenoiserTask(EDMDenoiser(body, num_classes=10))


def guidance_task():
    objective = Trades(ThreatModel("inf", 0.1), steps=1)
    return GuidanceTask(GuidanceNetwork(in_channels=1, num_classes=10), objective, val_steps=0)


def batch(size=4):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(size, 1, 8, 8, generator=generator), torch.arange(size), torch.arange(size)


IMAGE, LABEL, INDEX = batch()
BAD = {
    r"images must be in \[0,1\]; got .* to 255": (255 * IMAGE / IMAGE.max(), LABEL, INDEX),
    r"labels must be in 0..9": (IMAGE, LABEL + 7, INDEX),
    r"three tensors; got 2 entries": (IMAGE, LABEL),
    r"label must be int64": (IMAGE, LABEL.float(), INDEX),
}


@pytest.mark.parametrize("task", [classifier_task, denoiser_task, guidance_task])
@pytest.mark.parametrize("message", BAD)
def test_a_bad_batch_is_refused_in_training_and_validation(task, message):
    module = task()
    for step in (module.training_step, module.validation_step):
        with pytest.raises(ValueError, match=message):
            step(BAD[message], 0)


@pytest.mark.parametrize(
    "arguments",
    [{"lr": 0.0}, {"weight_decay": -1.0}, {"warmup": 1.0}]
    + [{name: value} for name in ("lr", "weight_decay", "warmup") for value in (math.nan, math.inf)],
)
def test_a_bad_recipe_is_refused(arguments):
    with pytest.raises(ValueError, match=f"{next(iter(arguments))}.* must be a finite number"):
        Recipe(**arguments)


def test_an_export_that_cannot_be_written_is_refused_before_training(tmp_path):
    (tmp_path / "file").touch()
    network = NetworkClassifier(SmallCNN(num_classes=10, in_channels=1))
    task = ClassifierTask(network, export=str(tmp_path / "file" / "weights.safetensors"))
    with pytest.raises(ValueError, match=r"file cannot be a folder .*Name another path"):
        task.on_fit_start()


def test_an_export_is_a_safetensors_file():
    with pytest.raises(ValueError, match=r"must name a \.safetensors file"):
        ClassifierTask(NetworkClassifier(SmallCNN(num_classes=10, in_channels=1)), export="weights.pt")


def test_a_damaged_checkpoint_is_named(tmp_path):
    import cli

    broken = tmp_path / "broken.ckpt"
    broken.write_text("not a checkpoint")
    config = "configs/tour/01-classifier.fit.yaml"
    root = Path(cli.__file__).parent
    with pytest.raises(ValueError, match="complete Lightning checkpoint"):
        cli.main(["validate", "-c", str(root / config), f"--ckpt_path={broken}"])


def test_validation_without_a_checkpoint_says_whose_weights_it_measures(monkeypatch):
    import cli
    from common.commands.lightning_commands import CLI

    monkeypatch.setattr(CLI, "_run_subcommand", lambda self, _: None)
    monkeypatch.setattr(CLI, "_dump_config", lambda self: vars(self).setdefault("config_dump", {}))
    config = Path(cli.__file__).parent / "configs/tour/01-classifier.fit.yaml"
    with pytest.warns(UserWarning, match=r"untrained unless it loads their weights.*--ckpt_path"):
        cli.main(["validate", "-c", str(config), "--trainer.logger=false"])
