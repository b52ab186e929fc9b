"""``fit`` and ``test`` through Lightning: robust validation, resuming, several processes."""

import json
from pathlib import Path

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from agdm.guidance import AdversarialGuidance
from agdm.networks import GuidanceNetwork
from agdm.objective import Trades
from agdm.purifier import AGDM
from agdm.task import AGDMTask, GuidanceTask
from common.checkpoints.loading import load_network
from common.data.datasets import ImageDataset
from common.data.samplers import ShardSampler
from common.diffusion.composed import Resized
from common.diffusion.purifiers import DiffusionPurifier
from common.diffusion.schedules import VP
from common.exact import ExactDenoiser, GaussianMixture
from common.experiments.study import Study
from common.noise import Noise
from common.records.fingerprint import weights_hash
from common.robustness.attacks.pgd import PGD
from common.robustness.classifiers import NetworkClassifier
from common.robustness.evaluation.attacked import Attacked
from common.robustness.evaluation.clean_and_certified import Clean
from common.robustness.threats.norm_ball import ThreatModel
from common.tasks import ClassifierTask, Recipe

ROWS, CLASSES = 24, 3
CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture
def data():
    """Three classes: stripes at different heights, with noise."""
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(ROWS) % CLASSES
    image = 0.2 + 0.1 * torch.rand(ROWS, 1, 6, 6, generator=generator)
    for row, y in enumerate(label):
        image[row, 0, 2 * y : 2 * y + 2] += 0.6
    return ImageDataset(image, label)


def task(seed=0, **options):
    torch.manual_seed(0)
    network = GuidanceNetwork(in_channels=1, num_classes=CLASSES, width=8, strides=(1, 2))
    objective = Trades(ThreatModel("inf", 0.2), weight=3.0, steps=2)
    options = {"val_steps": 3, "num_classes": CLASSES, "recipe": Recipe(lr=1e-2, seed=seed)} | options
    return GuidanceTask(network, objective, 0.1, **options)


def trainer(folder, **options):
    settings = {
        "accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
        "enable_checkpointing": False, "inference_mode": False, "default_root_dir": folder, "num_sanity_val_steps": 0,
    }  # fmt: skip
    return L.Trainer(**settings | options)


class InOrder(L.LightningDataModule):
    """Everything, in order, to train, validate and test on; each rank takes its share, as Lightning alone would not."""

    def __init__(self, data, batch_size=8):
        super().__init__()
        self.data, self.batch_size = data, batch_size

    def train_dataloader(self):
        return DataLoader(self.data, self.batch_size, sampler=ShardSampler(self.data))

    val_dataloader = test_dataloader = train_dataloader


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.network.parameters()])


def test_fit_makes_the_network_robust_and_exports_it(data, tmp_path):
    model, path = task(export=str(tmp_path / "phi.safetensors")), tmp_path / "phi.safetensors"
    run = trainer(tmp_path, max_epochs=20, check_val_every_n_epoch=20)
    run.fit(model, datamodule=InOrder(data))
    found = {name: float(value) for name, value in run.callback_metrics.items() if name.startswith("val/")}
    assert set(found) == {f"val/{view}_{kind}" for view in ("clean", "diffused") for kind in ("accuracy", "robust")}
    assert min(found.values()) > 0.9, found
    images = data.images * 2 - 1
    again = load_network(str(path))(images, torch.tensor(0.0))[1]
    torch.testing.assert_close(again, model.network.eval()(images, torch.tensor(0.0))[1])


def test_validation_is_robust_accuracy_not_accuracy(data, tmp_path):
    """An attack of eps 0.5 can paint any of the stripes: a network trained without an adversary loses all."""
    model = task()
    model.objective = Trades(ThreatModel("inf", 0.5), weight=0.0)
    run = trainer(tmp_path, max_epochs=8, check_val_every_n_epoch=8)
    run.fit(model, datamodule=InOrder(data))
    assert run.callback_metrics["val/clean_accuracy"] > 0.9
    assert run.callback_metrics["val/clean_robust"] < 0.3, run.callback_metrics
    (plain,) = trainer(tmp_path).validate(task(val_steps=0), datamodule=InOrder(data), verbose=False)
    assert set(plain) == {"val/clean_accuracy", "val/diffused_accuracy"}


def test_a_resumed_run_is_the_uninterrupted_one(data, tmp_path):
    """Optimizer, schedule and noise continue: the same weights, bit for bit. Another seed gives others."""
    options = {"max_epochs": 3, "limit_val_batches": 0}
    straight = task()
    trainer(tmp_path, **options).fit(straight, datamodule=InOrder(data))

    class Stop(L.Callback):
        def on_train_epoch_end(self, run, model):
            run.save_checkpoint(tmp_path / "half.ckpt")
            run.should_stop = True

    trainer(tmp_path, **options, callbacks=[Stop()], min_epochs=1).fit(task(), datamodule=InOrder(data))
    resumed, other = task(), task(seed=1)
    trainer(tmp_path, **options).fit(resumed, datamodule=InOrder(data), ckpt_path=tmp_path / "half.ckpt")
    assert torch.equal(weights(resumed), weights(straight))
    trainer(tmp_path, **options).fit(other, datamodule=InOrder(data))
    assert not torch.equal(weights(other), weights(straight))


def test_two_processes_train_and_validate_as_one(data, tmp_path):
    """Two ranks with half a batch each take the steps of one process, up to the order of float64 sums (in float32,
    Adam and the attack's sign blow rounding up): a row's noise belongs to its image, whichever rank draws it.
    Validation counts each image once."""
    found = []
    for options, batch_size in (({}, 8), ({"devices": 2, "strategy": "ddp_fork"}, 4)):
        model = task()
        run = trainer(tmp_path, max_epochs=2, check_val_every_n_epoch=2, precision="64-true", **options)
        run.fit(model, datamodule=InOrder(data, batch_size))
        found.append((weights(model), {name: float(value) for name, value in run.callback_metrics.items()}))
    (one, metrics), (two, shared) = found
    assert (one - weights(task())).abs().max() > 0.01
    torch.testing.assert_close(two.double(), one.double(), rtol=0, atol=1e-6)
    for name in ("val/clean_accuracy", "val/clean_robust"):
        assert shared[name] == pytest.approx(metrics[name], abs=1e-6)


def test_noise_is_of_image_and_epoch_and_validation_repeats_its_own(data, tmp_path, monkeypatch):
    model, seen, validated = task(seed=5), [], []

    def objective(network, image, label, sigma, noise):
        seen.append((noise.seed, noise.index.tolist(), set(noise.draw.tolist())))
        return Trades(ThreatModel("inf", 0.2), weight=0.0)(network, image, label, sigma, noise)

    def attack(classifier, image, label, threat, noise):
        validated.append((noise.seed, noise.index.tolist(), noise.draw.tolist()))
        return image

    objective.threat = model.objective.threat
    monkeypatch.setattr(model, "objective", objective)
    monkeypatch.setattr(model, "attack", attack)
    trainer(tmp_path, max_epochs=2).fit(model, datamodule=InOrder(data, 12))
    assert seen == [(5, list(range(i, i + 12)), {epoch}) for epoch in (0, 1) for i in (0, 12)]
    first, second = validated[: len(validated) // 2], validated[len(validated) // 2 :]
    assert first == second
    assert [row for _, index, _ in first[::2] for row in index] == list(range(ROWS))


def test_inference_mode_is_refused_with_a_reason(data, tmp_path):
    with pytest.raises(ValueError, match="inference_mode=False"):
        trainer(tmp_path, inference_mode=True).validate(task(), datamodule=InOrder(data), verbose=False)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"clean": 1.0}, "share"), ({"val_steps": -1}, "val_steps"), ({"recipe": {"lr": 0.0}}, "lr")],
)
def test_impossible_settings_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        task(**{"recipe": Recipe(**wrong["recipe"])} if "recipe" in wrong else wrong)


def test_a_time_outside_the_schedule_is_refused():
    for t_star in (0.0, 1.5):
        with pytest.raises(ValueError, match=r"t_star must be a time in \(0, 1\]"):
            GuidanceTask(GuidanceNetwork(), Trades(ThreatModel("inf", 0.2)), t_star)


def test_times_are_drawn_up_to_t_max(data, tmp_path, monkeypatch):
    """1.2 t_star by default, never beyond the schedule."""
    seen = []
    monkeypatch.setattr("agdm.task.draw_sigma", lambda noise, schedule, *rest: seen.append(rest) or torch.zeros(8))
    for options in ({}, {"t_max": 0.5}, {"clean": 0.25}):
        trainer(tmp_path, max_epochs=1, limit_train_batches=1, limit_val_batches=0).fit(
            task(**options), datamodule=InOrder(data)
        )
    assert seen == [(pytest.approx(0.12), 0.5), (0.5, 0.5), (pytest.approx(0.12), 0.25)]
    assert GuidanceTask(GuidanceNetwork(), Trades(ThreatModel("inf", 0.2)), 0.9).t_max == 1
    with pytest.raises(ValueError, match=r"t_max must be a time in \(0, 1\]; got 1.5"):
        task(t_max=1.5)


def agdm(data):
    mixture = GaussianMixture(2 * data.images[:3] - 1, 0.1, labels=torch.arange(3))
    return AGDM(ExactDenoiser(mixture), AdversarialGuidance(task().network, 1.0, 1.0), 0.1, scale=2.0, steps=2)


def test_agdm_refuses_a_bad_steering_and_no_images(data):
    """A name in place of a ``Steering``, and a calibration without images."""
    purifier = agdm(data)
    with pytest.raises(ValueError, match=r"steering must be a Steering.*got 'diffused'"):
        AGDM(purifier.denoiser, purifier.guidance, 0.1, steps=2, steering="diffused")
    with pytest.raises(ValueError, match=r"calibrated on images \(B,C,H,W\), B >= 1; got \(0, 1, 6, 6\)"):
        purifier.scale_for(0.2, data.images[:0])


def test_the_study_transfers_from_the_network_that_guides():
    """In every case whose guidance has a network, the transfer attack's source is of the same file."""
    found = {}
    for case in Study.read(CONFIGS / "studies" / "agdm-guidances.study.yaml").combinations:
        settings = case.settings["model"]["init_args"]
        guidance = settings["purifier"]["init_args"]["guidance"].get("init_args", {})
        source = settings["evaluators"][1]["init_args"]["attack"]["init_args"]["source"]
        if network := guidance.get("network", guidance.get("classifier")):
            found[case.case] = network == source["init_args"].get("network", source)
    assert {"both terms", "no adversary in training", "classifier", "contrast"} <= set(found)
    assert all(found.values()), found


def test_a_classifier_is_tuned_behind_agdm(data, tmp_path):
    """On purified images, each anew every epoch; the guidance takes its gradients inside, and stays as it is."""
    purifier, seen = agdm(data), []
    purifier.register_forward_hook(lambda module, given, purified: seen.append((module.training, purified)))
    before = weights_hash(purifier)
    torch.manual_seed(0)
    classifier = NetworkClassifier(nn.Sequential(nn.Flatten(), nn.Linear(36, CLASSES)))
    recipe = Recipe(lr=0.05)
    model = ClassifierTask(classifier, purifier=purifier, num_classes=CLASSES, recipe=recipe, export=None)
    run = trainer(tmp_path, max_epochs=6, limit_val_batches=1)
    run.fit(model, datamodule=InOrder(data, ROWS))
    assert run.callback_metrics["train/accuracy"] > 0.9
    assert weights_hash(purifier) == before
    training = seen[::2]  # a batch of training, then one of validation
    assert not any(mode for mode, _ in seen)
    assert (training[0][1] - training[1][1]).abs().amax((1, 2, 3)).min() > 0
    assert torch.equal(seen[1][1], seen[3][1])  # validation's purifications are the same every time


def test_agdm_may_purify_at_another_resolution(data):
    """Images of 9 pixels a side are purified at 6, as ImageNet's are at 256 for classifiers at 224."""
    classifier = NetworkClassifier(nn.Sequential(nn.Flatten(), nn.Linear(81, CLASSES)))
    model = AGDMTask(Resized(agdm(data), 6), classifier, [Attacked(PGD(steps=2, eot=2), ThreatModel("inf", 0.2))])
    image = torch.rand(2, 1, 9, 9, generator=torch.Generator().manual_seed(0)).requires_grad_()
    logits = model.classifier(image, Noise.of(0, torch.arange(2)))
    (gradient,) = torch.autograd.grad(logits[:, 0].sum(), image)
    assert logits.shape == (2, CLASSES) and float(gradient.abs().amax((1, 2, 3)).min()) > 0


def test_a_purifier_without_guidance_is_refused(data):
    plain = DiffusionPurifier(agdm(data).denoiser, VP(), 0.1, steps=2)
    for purifier in (plain, Resized(plain, 6)):
        with pytest.raises(ValueError, match=rf"purifier must be an AGDM.*got {type(purifier).__name__}"):
            AGDMTask(purifier, NetworkClassifier(nn.Flatten()), [Clean()])


def test_agdm_is_tested_and_recorded(data, tmp_path):
    purifier = agdm(data)
    classifier = NetworkClassifier(nn.Sequential(nn.Flatten(), nn.Linear(36, CLASSES)))
    evaluators = [Clean(draws=2), Attacked(PGD(steps=2, eot=2), ThreatModel("inf", 0.2), draws=3, name="pgd")]
    model = AGDMTask(purifier, classifier, evaluators, str(tmp_path / "records"))
    trainer(tmp_path).test(model, datamodule=InOrder(data, 7), verbose=False)
    lines = [json.loads(line) for line in (tmp_path / "records" / "records.jsonl").read_text().splitlines()]
    rows = [line for line in lines if line.get("evaluator") == "pgd"]
    assert [row["index"] for row in rows] == list(range(ROWS))
    assert all(row["distance"] <= 0.2 + 1e-6 for row in rows)
    purifier.guidance.distance = "cosine"
    other = AGDMTask(purifier, classifier, evaluators, str(tmp_path / "records"))
    with pytest.raises(ValueError, match="distance"):  # another defence may not continue these records
        trainer(tmp_path).test(other, datamodule=InOrder(data, 7), verbose=False)
