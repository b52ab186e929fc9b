"""Fits: averaged weights, the best epoch, export, resuming, two processes, a frozen purifier."""

import json
import multiprocessing
import os
import signal

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging, ModelCheckpoint
from torch import nn

from agdm.guidance import AdversarialGuidance
from agdm.networks import GuidanceNetwork
from agdm.objective import Trades
from agdm.task import GuidanceTask
from common.checkpoints.loading import load_network
from common.checkpoints.saving import save
from common.data.digits import Digits
from common.data.samplers import ShuffleSampler, TrainingLoader
from common.files.locking import lock, lock_of
from common.networks import SmallCNN
from common.records.fingerprint import weights_hash
from common.robustness.classifiers import NetworkClassifier
from common.robustness.threats.norm_ball import ThreatModel
from common.tasks.classifier import ClassifierTask
from common.tasks.recipes import Recipe
from tests.common.files.test_locking import another_process

DECAY = 0.8


@pytest.fixture
def digits():
    """256 digits to train on and 64 to validate with."""

    class Few(Digits):
        def load(self, stage=None):
            super().load(stage)
            self.train, self.val = (
                torch.utils.data.Subset(part, range(n)) for part, n in ((self.train, 256), (self.val, 64))
            )

    return lambda batch_size=64: Few(batch_size=batch_size)


def guidance(folder, **options):
    torch.manual_seed(0)
    network = GuidanceNetwork(1, 10, width=8, strides=(2, 2))
    objective = Trades(ThreatModel("inf", 0.1), weight=1.0, steps=2)
    recipe = Recipe(lr=2e-2)
    return GuidanceTask(
        network, objective, val_steps=2, recipe=recipe, export=str(folder / "phi.safetensors"), **options
    )


def trainer(folder, *callbacks, **options):
    settings = {
        "accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
        "inference_mode": False, "default_root_dir": folder, "callbacks": [*callbacks], "max_epochs": 4,
    }  # fmt: skip
    saves = any(isinstance(part, ModelCheckpoint) for part in callbacks)
    return L.Trainer(**settings | {"enable_checkpointing": saves} | options)


def checkpoints(folder, patience=2, monitor="val/clean_robust"):
    """The callbacks of the configs: weight averaging, early stopping, checkpoints of the best and the last epoch."""
    return [
        EMAWeightAveraging(decay=DECAY),
        EarlyStopping(monitor, mode="max", patience=patience),
        ModelCheckpoint(folder, "best", monitor=monitor, mode="max", enable_version_counter=False),
        ModelCheckpoint(folder, "last", enable_version_counter=False),
    ]


def flat(module):
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()]).clone()


class Average(L.Callback):
    """The exponential average by its definition: the first weights, then decay * average + (1 - decay) * weights."""

    def __init__(self):
        self.average, self.now, self.validated, self.epochs = None, None, [], []

    def on_train_batch_end(self, trainer, module, *_):
        self.now = flat(module.trained())
        self.average = self.now if self.average is None else DECAY * self.average + (1 - DECAY) * self.now
        self.epochs = [*self.epochs[: trainer.current_epoch], self.average]

    def on_validation_batch_start(self, trainer, module, *_):
        if not trainer.sanity_checking:
            self.validated.append((flat(module.trained()), self.average))


def test_validation_and_export_use_averaged_weights(digits, tmp_path):
    model, average = guidance(tmp_path), Average()
    trainer(tmp_path, average, EMAWeightAveraging(decay=DECAY), max_epochs=2).fit(model, datamodule=digits())
    assert len(average.validated) == 2
    for seen, expected in average.validated:
        torch.testing.assert_close(seen, expected)
    exported = load_network(tmp_path / "phi.safetensors")
    torch.testing.assert_close(flat(exported), average.average)
    assert (flat(exported) - average.now).abs().max() > 1e-3  # different from the last weights


class Scripted(GuidanceTask):
    """Logs a given score in each epoch."""

    scores = (0.2, 0.9, 0.4, 0.3, 0.95)

    def validation_step(self, batch, batch_idx):
        self.log("val/score", self.scores[self.current_epoch], on_epoch=True)


def test_the_best_epoch_is_exported_and_training_stops(digits, tmp_path):
    """Epochs 2 and 3 are worse than epoch 1, so that patience 2 ends the run before epoch 4 could be better."""
    model, average = guidance(tmp_path), Average()
    model.__class__ = Scripted
    run = trainer(tmp_path, average, *checkpoints(tmp_path, monitor="val/score"), max_epochs=5)
    run.fit(model, datamodule=digits())
    assert len(average.epochs) == 4
    exported = flat(load_network(tmp_path / "phi.safetensors"))
    torch.testing.assert_close(exported, average.epochs[1])
    assert (exported - average.epochs[3]).abs().max() > 1e-3
    assert torch.equal(flat(model.network), exported)


def test_a_missing_best_epoch_exports_the_last_weights(digits, tmp_path):
    """Its file was deleted during training: the last weights are exported, with a warning."""

    class Tidying(L.Callback):
        def on_train_end(self, trainer, module):
            (tmp_path / "best.ckpt").unlink()

    model = guidance(tmp_path)
    model.__class__ = Scripted
    keeper = ModelCheckpoint(tmp_path, "best", monitor="val/score", mode="max")
    with pytest.warns(UserWarning, match=r"no checkpoint of the best epoch, .*best.ckpt: exporting the last weights"):
        trainer(tmp_path, keeper, Tidying(), max_epochs=3).fit(model, datamodule=digits())
    assert torch.equal(flat(load_network(tmp_path / "phi.safetensors")), flat(model.network))


class Diverging(L.Callback):
    """Weights become NaN in an epoch, as after an overflow."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_train_batch_end(self, trainer, module, *_):
        if trainer.current_epoch == self.epoch:
            with torch.no_grad():
                next(module.trained().parameters()).fill_(torch.nan)


@pytest.mark.parametrize("averaged", [False, True], ids=["raw", "averaged"])
def test_a_training_that_diverges_exports_nothing_and_keeps_its_last_finite_checkpoint(digits, tmp_path, averaged):
    keeper = ModelCheckpoint(tmp_path, "last", enable_version_counter=False, every_n_train_steps=2)
    parts = [keeper, Diverging(1), *([EMAWeightAveraging(decay=DECAY)] if averaged else [])]
    match = r"diverged: NaN or infinity in .* in epoch 1, step .*The last finite checkpoint is .*last\.ckpt"
    with pytest.raises(ValueError, match=match):
        trainer(tmp_path, *parts, max_epochs=3).fit(guidance(tmp_path), datamodule=digits())
    assert not (tmp_path / "phi.safetensors").exists()
    kept = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert kept["epoch"] == 0 and all(value.isfinite().all() for value in kept["state_dict"].values())


def test_a_training_that_diverges_without_checkpoints_exports_nothing(digits, tmp_path):
    with pytest.raises(ValueError, match=r"in epoch 0, .*neither saved nor exported. There is no earlier checkpoint"):
        trainer(tmp_path, Diverging(0), max_epochs=1).fit(guidance(tmp_path), datamodule=digits())
    assert not (tmp_path / "phi.safetensors").exists()


class Own(nn.Module):
    """A user's φ."""

    def __init__(self):
        super().__init__()
        self.body = GuidanceNetwork(1, 10, width=8, strides=(2, 2))

    def forward(self, x, sigma):
        return self.body(x, sigma)


def test_modules_without_an_export_are_refused_before_training(digits, tmp_path):
    model, seen = guidance(tmp_path), Average()
    model.network = Own()
    with pytest.raises(ValueError, match=r"a checkpoint may name exported modules of .*Own"):
        trainer(tmp_path, seen, max_epochs=1).fit(model, datamodule=digits())
    assert seen.average is None
    model.export = None
    trainer(tmp_path, seen, max_epochs=1).fit(model, datamodule=digits())
    assert seen.average is not None


def test_a_frozen_guidance_network_is_not_trained(digits, tmp_path):
    model = guidance(tmp_path)
    AdversarialGuidance(model.network)
    with pytest.raises(ValueError, match=r"all of this GuidanceNetwork are frozen.*requires_grad_\(True\)"):
        trainer(tmp_path, max_epochs=1).fit(model, datamodule=digits())
    model.network.requires_grad_(True)
    trainer(tmp_path, max_epochs=1, limit_train_batches=1, limit_val_batches=0).fit(model, datamodule=digits())


def test_unvalidated_weights_are_not_saved(digits, tmp_path):
    """A checkpoint of weights alone holds the weights before averaging."""
    keeper = ModelCheckpoint(tmp_path, monitor="val/clean_robust", mode="max", save_weights_only=True)
    with pytest.raises(ValueError, match="save_weights_only"):
        trainer(tmp_path, EMAWeightAveraging(decay=DECAY), keeper).fit(guidance(tmp_path), datamodule=digits())


class Kill(L.Callback):
    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == (2, 1):
            os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_run_resumes_bit_for_bit(digits, tmp_path):
    """SIGKILL in the middle of epoch 2; resumed from the last epoch's end. Equal are weights, averages, the optimizer,
    the schedule, what early stopping and the keeper of the best epoch remember, and the exported file."""
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    trainer(straight, *checkpoints(straight)).fit(guidance(straight), datamodule=digits())

    def doomed():
        torch.set_num_threads(1)
        trainer(broken, *checkpoints(broken), Kill()).fit(guidance(broken), datamodule=digits())

    process = multiprocessing.get_context("fork").Process(target=doomed)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert not (broken / "phi.safetensors").exists()
    assert torch.load(broken / "last.ckpt", weights_only=True)["epoch"] == 1
    torch.rand(5)  # no state of the process's generator matters
    trainer(broken, *checkpoints(broken)).fit(guidance(broken), datamodule=digits(), ckpt_path=broken / "last.ckpt")
    one, two = (torch.load(folder / "last.ckpt", weights_only=True) for folder in (straight, broken))
    for part in ("epoch", "global_step", "state_dict", "current_model_state", "averaging_state", "optimizer_states"):
        assert same(one[part], two[part]), part
    assert same(one["lr_schedulers"], two["lr_schedulers"])
    assert len(one["callbacks"]) == 4
    for name in one["callbacks"]:
        for key in {"wait_count", "best_score", "best_model_score", "latest_update_step"} & {*one["callbacks"][name]}:
            assert same(one["callbacks"][name][key], two["callbacks"][name][key]), key
    assert (straight / "phi.safetensors").read_bytes() == (broken / "phi.safetensors").read_bytes()


def same(one, two):
    """True if nested containers are equal bit for bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    return all(map(same, one, two)) if isinstance(one, list | tuple) and len(one) == len(two) else one == two


class Preempted(L.Callback):
    """Saves in the middle of epoch 1, as after a signal of a cluster, and ends the run there if it has a path."""

    def __init__(self, path=None):
        self.path, self.seen = path, []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.seen.append((trainer.current_epoch, batch_idx, batch[2].tolist()))
        if self.path is not None and (trainer.current_epoch, batch_idx) == (1, 1):
            trainer.save_checkpoint(self.path)
            raise RuntimeError("preempted")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_resumes_in_the_middle_of_an_epoch(digits, tmp_path, workers):
    """It continues with the remaining batches of the epoch; weights are equal bit for bit."""

    def fit(keeper, checkpoint=None):
        model, data = guidance(tmp_path), digits()
        data.workers = workers
        options = {"max_epochs": 3, "limit_val_batches": 0}
        trainer(tmp_path, EMAWeightAveraging(decay=DECAY), keeper, **options).fit(model, data, ckpt_path=checkpoint)
        return flat(model.network)

    straight, rest = Preempted(), Preempted()
    expected = fit(straight)
    with pytest.raises(RuntimeError, match="preempted"):
        fit(Preempted(tmp_path / "mid.ckpt"))
    assert torch.equal(fit(rest, tmp_path / "mid.ckpt"), expected)
    assert rest.seen == straight.seen[6:]


class Curve(L.Callback):
    """Validation metrics of each epoch, in a file, since a fit has processes of its own."""

    def __init__(self, path):
        self.path, self.points = path, []

    def on_validation_end(self, trainer, module):
        names = [f"val/{view}_{kind}" for view in ("clean", "diffused") for kind in ("accuracy", "robust")]
        self.points.append([float(trainer.callback_metrics[name]) for name in names])
        if trainer.is_global_zero:
            self.path.write_text(json.dumps(self.points))


def test_two_processes_have_the_same_validation_curve(digits, tmp_path):
    """Two ranks with half a batch each see together what one process sees, in the same order and with the same noise.
    In float64 rounding decides nothing on the way, so that the curves of 64 images are equal, point by point."""
    found = []
    for name, options, size in (("one", {}, 64), ("two", {"devices": 2, "strategy": "ddp_fork"}, 32)):
        folder, curve = tmp_path / name, Curve(tmp_path / f"{name}.json")
        run = trainer(folder, curve, EMAWeightAveraging(decay=DECAY), max_epochs=3, precision="64-true", **options)
        run.fit(guidance(folder), datamodule=digits(size))
        found.append((json.loads(curve.path.read_text()), flat(load_network(folder / "phi.safetensors"))))
    (curve, one), (other, two) = found
    torch.testing.assert_close(two, one, rtol=0, atol=1e-6)
    assert other == curve
    assert curve[-1][0] > curve[0][0]


def test_training_order_is_of_seed_and_epoch_and_shared_by_ranks(monkeypatch):
    def order(epoch, rank=0, world=1, seed=7):
        sampler = ShuffleSampler(range(20), seed)
        sampler.rank, sampler.num_replicas, sampler.num_samples = rank, world, 20 // world
        sampler.set_epoch(epoch)
        return list(sampler)

    assert sorted(order(0)) == list(range(20))
    assert order(0) == order(0) != order(1)
    loader = TrainingLoader(range(20), 4, 0)
    loader.order.seed = 7
    loader.load_state_dict({"batches_done": 2})
    assert torch.cat(list(loader)).tolist() == order(0)[8:]
    assert loader.state_dict() == {"batches_done": 0}
    assert torch.cat(list(loader)).tolist() == order(0)  # the next epoch is complete
    assert order(0, seed=8) != order(0)
    both = [order(1, rank, 2) for rank in (0, 1)]
    assert [both[i % 2][i // 2] for i in range(20)] == order(1)
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    assert ShuffleSampler(range(20)).seed == 7


# ---- frozen purifiers, and weights from a file ----


class Dimming(nn.Module):
    """A purifier with weights and statistics of its own."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(1)

    def forward(self, image, noise):
        return self.norm(image) * 0.1 + 0.9 * image


def tuned(purifier, **options):
    torch.manual_seed(0)
    return ClassifierTask(NetworkClassifier(SmallCNN(10, 1, width=8)), purifier=purifier, **options)


def test_a_purifier_is_frozen_and_no_part_of_a_checkpoint(digits, tmp_path):
    """Also where weights are averaged, which copies what a module holds; such a run resumes, and another is refused."""
    purifier = Dimming().train()
    before, model = weights_hash(purifier), tuned(purifier)
    run = trainer(tmp_path, EMAWeightAveraging(decay=DECAY), ModelCheckpoint(tmp_path, "last"), max_epochs=2)
    run.fit(model, datamodule=digits())
    assert weights_hash(purifier) == before
    assert not purifier.training and not any(parameter.requires_grad for parameter in purifier.parameters())
    stored = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert not [key for key in stored["state_dict"] if "norm." in key]
    assert stored["hyper_parameters"]["purifier_sha256"] == before
    resumed = {"datamodule": digits(), "ckpt_path": tmp_path / "last.ckpt"}
    more = trainer(tmp_path, EMAWeightAveraging(decay=DECAY), max_epochs=3)
    more.fit(tuned(purifier), **resumed)
    assert more.current_epoch == 3
    nn.init.constant_(purifier.norm.weight, 2.0)
    with pytest.raises(ValueError, match="another purifier"):
        trainer(tmp_path, EMAWeightAveraging(decay=DECAY), max_epochs=3).fit(tuned(purifier), **resumed)


def test_weights_from_a_file_are_trained(digits, tmp_path):
    """A loaded network comes in evaluation mode, and Lightning leaves modes alone: dropout would stay off."""
    network = SmallCNN(10, 1, width=8, dropout=0.5)
    loaded = load_network(save(network, tmp_path / "old.safetensors"))
    assert not loaded.training
    model = ClassifierTask(NetworkClassifier(loaded).eval())
    trainer(tmp_path, max_epochs=1).fit(model, datamodule=digits())
    assert model.classifier.training and loaded.training
    assert (flat(loaded) - flat(network)).abs().max() > 1e-3


def test_a_second_training_of_the_same_export_is_refused(digits, tmp_path):
    model, export = guidance(tmp_path), tmp_path / "phi.safetensors"
    with another_process(lambda: lock(export, lock_of(export))) as first:
        with pytest.raises(ValueError, match=rf"{export} is being written by process {first} on "):
            trainer(tmp_path, max_epochs=1).fit(model, datamodule=digits())
        assert model.trainer.global_step == 0
    trainer(tmp_path, max_epochs=1).fit(model, datamodule=digits())
    assert export.exists() and not lock_of(export).exists()


def test_a_second_training_of_the_same_checkpoints_is_refused(digits, tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    saving = ModelCheckpoint(folder, "last", enable_version_counter=False)
    with another_process(lambda: lock(folder)) as first:
        with pytest.raises(ValueError, match=rf"{folder} is being written by process {first} on "):
            trainer(tmp_path, saving, max_epochs=1).fit(guidance(tmp_path), datamodule=digits())
        assert not [*folder.glob("*.ckpt")]
    (folder / ".unfinished-another-1-0").touch()
    os.utime(folder / ".unfinished-another-1-0", (0, 0))  # left by a process that was killed long ago
    trainer(tmp_path, saving, max_epochs=1).fit(guidance(tmp_path), datamodule=digits())
    assert [path.name for path in folder.iterdir()] == ["last.ckpt"]
