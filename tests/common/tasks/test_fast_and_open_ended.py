"""Fast and open-ended training: accuracy, resuming, schedules, averaged weights, export."""

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from common.checkpoints.loading import load_classifier, load_denoiser
from common.data.augmentation import Augmentation
from common.data.digits import Digits
from common.diffusion.denoisers import EDMDenoiser
from common.diffusion.networks import DDPMpp
from common.networks import WhitenedConvNet
from common.noise import Noise
from common.robustness.adversarial_training import PGDTraining
from common.robustness.classifiers import NetworkClassifier
from common.robustness.threats.norm_ball import ThreatModel
from common.tasks import FastClassifierTask, MuonRecipe, OpenEndedDenoiserTask, OpenEndedRecipe, PowerAveraging


def classifier_task(folder, objective=None):
    torch.manual_seed(0)
    network = WhitenedConvNet(in_channels=1, widths=[16, 16])
    export = str(folder / "classifier.safetensors")
    augmentation, recipe = Augmentation(shift=1, mirroring="never"), MuonRecipe(vector_lr=0.1)
    return FastClassifierTask(
        NetworkClassifier(network), augmentation, recipe=recipe, export=export, objective=objective
    )


def adversarial_task(folder, weight=1.0):
    """Single-step adversarial training at L-infinity 0.1; weight 0: of the undisturbed images."""
    step = PGDTraining(ThreatModel(norm="inf", eps=0.1 * weight + 1e-9), steps=1, step_size=0.125 * weight + 1e-9)
    return classifier_task(folder, step)


def denoiser_task(folder):
    torch.manual_seed(0)
    body = DDPMpp(
        img_resolution=8, img_channels=1, label_dim=10, model_channels=8, channel_mult=[1], num_blocks=1,
        attn_resolutions=[], dropout=0.0,
    )  # fmt: skip
    export = str(folder / "denoiser.safetensors")
    recipe = OpenEndedRecipe(warmup_steps=2, hold_steps=4)
    return OpenEndedDenoiserTask(EDMDenoiser(body, num_classes=10), recipe=recipe, export=export)


def trainer(folder, *callbacks, **options):
    settings = {
        "accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
        "default_root_dir": folder, "callbacks": [*callbacks], "max_epochs": 2, "inference_mode": False,
        "enable_checkpointing": any(isinstance(part, ModelCheckpoint) for part in callbacks),
    }  # fmt: skip
    return L.Trainer(**settings | options)


class Killed(L.Callback):
    """Interruption of a run after its fourth step."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 4:
            raise ConnectionError


def test_digits_are_learned_in_four_epochs(tmp_path):
    run = trainer(tmp_path, max_epochs=4)
    run.fit(classifier_task(tmp_path), Digits(batch_size=64))
    assert run.callback_metrics["val/accuracy"] > 0.9
    assert load_classifier(tmp_path / "classifier.safetensors")


def test_single_step_adversarial_training_withstands_pgd(tmp_path):
    """Against PGD of ten steps at L-infinity 0.1; the same training without a perturbation hardly does."""
    robust = {}
    for weight in (0.0, 1.0):
        task = adversarial_task(tmp_path, weight)
        trainer(tmp_path, max_epochs=4, limit_val_batches=0).fit(task, Digits(batch_size=64))
        task.objective = adversarial_task(tmp_path).objective
        run = trainer(tmp_path)
        run.validate(task, Digits(batch_size=64), verbose=False)
        robust[weight] = run.callback_metrics["val/robust"]
        assert run.callback_metrics["val/accuracy"] > 0.9
    assert robust[1.0] > robust[0.0] + 0.2


@pytest.mark.parametrize("task", [classifier_task, adversarial_task, denoiser_task])
def test_a_run_resumes_bit_for_bit_in_the_middle_of_an_epoch(tmp_path, task):
    def averaging():
        return [PowerAveraging()] if task is denoiser_task else []

    short = {"limit_train_batches": 6, "limit_val_batches": 1}
    uninterrupted = task(tmp_path)
    trainer(tmp_path, *averaging(), **short).fit(uninterrupted, Digits(batch_size=32))
    keeper = ModelCheckpoint(dirpath=tmp_path, filename="at", every_n_train_steps=4, save_top_k=-1)
    with pytest.raises(ConnectionError):
        trainer(tmp_path, keeper, Killed(), *averaging(), **short).fit(task(tmp_path), Digits(batch_size=32))
    resumed = task(tmp_path)
    run = trainer(tmp_path, *averaging(), **short)
    run.fit(resumed, Digits(batch_size=32), ckpt_path=str(tmp_path / "at.ckpt"), weights_only=False)
    assert run.global_step == 12
    a, b = uninterrupted.state_dict(), resumed.state_dict()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_the_open_ended_learning_rate_rises_holds_and_falls():
    recipe = OpenEndedRecipe(warmup_steps=2, hold_steps=4)
    assert [recipe.factor(step, steps=10) for step in (0, 1, 4, 16)] == [0.5, 1.0, 1.0, 0.5]


def test_muons_learning_rate_rises_and_falls_linearly():
    recipe = MuonRecipe(warmup=0.2)
    factors = [recipe.factor(step, steps=10) for step in range(10)]
    assert factors == pytest.approx([1 / 2, 1, 8 / 9, 7 / 9, 6 / 9, 5 / 9, 4 / 9, 3 / 9, 2 / 9, 1 / 9])


def test_power_averaging_is_the_weighted_mean(tmp_path):
    power, updates = 3.0, 50
    average = PowerAveraging(power)._kwargs["multi_avg_fn"]
    values = torch.rand(updates, dtype=torch.float64)
    mean = [values[0].clone()]
    for count in range(1, updates):
        average(mean, [values[count]], torch.tensor(count))
    weights = torch.arange(1, updates + 1, dtype=torch.float64) ** power
    assert float(mean[0]) == pytest.approx(float((weights * values).sum() / weights.sum()), rel=0.02)


def test_an_open_ended_denoiser_exports_its_average(tmp_path):
    trainer(tmp_path, PowerAveraging(), limit_train_batches=3).fit(denoiser_task(tmp_path), Digits(batch_size=32))
    assert load_denoiser(tmp_path / "denoiser.safetensors").num_classes == 10


def test_bad_settings_are_refused(tmp_path):
    with pytest.raises(ValueError, match="warmup, a share of the steps, must be"):
        MuonRecipe(warmup=1.0)
    with pytest.raises(ValueError, match="label_smoothing must be"):
        FastClassifierTask(classifier_task(tmp_path).classifier, label_smoothing=1.0)
    with pytest.raises(ValueError, match="warmup_steps <= hold_steps"):
        OpenEndedRecipe(warmup_steps=5, hold_steps=4)
    with pytest.raises(ValueError, match="lr must be a finite number > 0"):
        OpenEndedRecipe(lr=0.0)
    with pytest.raises(ValueError, match="power must be"):
        PowerAveraging(-1.0)


def test_training_images_have_gaussian_noise_after_their_augmentation(tmp_path):
    """The noise of `noise_sigma`, the same as in ``ClassifierTask``."""
    task = FastClassifierTask(NetworkClassifier(torch.nn.Flatten()), Augmentation(0, "never"), noise_sigma=0.25)
    seen = []
    task.classifier.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    task.log_training = lambda *_: None  # no trainer
    image = torch.full((64, 1, 8, 8), 0.5)
    task.noise = lambda index: Noise.of(0, index)
    task.training_step((image, torch.zeros(64, dtype=torch.long), torch.arange(64)), 0)
    assert seen[0].std().item() == pytest.approx(0.25, rel=0.05)
    assert torch.equal(seen[0], task.prepare(image, Noise.of(0, torch.arange(64))))
