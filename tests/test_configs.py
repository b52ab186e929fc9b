"""Every configuration: title and source, names of published weights, construction, one batch of each test.

Published weights are tiny stand-ins in a cache of their own: cards with small networks, files read by the real loaders.
"""

import json
import re
from copy import deepcopy
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import timm
import torch
import yaml
from lightning.pytorch import callbacks, loggers
from safetensors.torch import save_file
from torch import nn

import cli
import common.hub.published as hub
from agdm.networks import GuidanceNetwork
from agdm.steering import Steering
from common import checkpoints
from common.checkpoints.formats.bodies import build_body
from common.commands.lightning_commands import CLI
from common.diffusion.denoisers import EDMDenoiser
from common.diffusion.networks import DDPMpp
from common.engine.engine import Engine
from common.engine.precision import has_bf16_units
from common.experiments.preset_files import find_preset
from common.experiments.preset_layers import layers, read_config
from common.experiments.study import Study
from common.hub.cards import CARDS
from common.naming.public_names import import_public
from common.naming.short_names import SHORT_NAMES, resolve_short_name
from common.networks import CIFARResNet, SmallCNN, WideResNet
from common.records.schema import CertifiedRecord
from common.robustness.classifiers import NetworkClassifier
from diffpure.gradual import Block
from ndc import Elimination, Nodes, Reduction

ROOT = Path(__file__).parent.parent
STUDIES = sorted((ROOT / "configs").rglob("*.study.yaml"))
BASES = sorted((ROOT / "configs" / "bases").glob("*.yaml"))  # layers under others
CONFIGS = sorted({*(ROOT / "configs").rglob("*.yaml")} - {*STUDIES, *BASES})
FITS = [path for path in CONFIGS if path.name.endswith(".fit.yaml") or path.parent.name == "train"]
SUITES = [path for path in CONFIGS if path.parent.name == "suites"]  # layers over a test, see test_rehearsal
TESTS = [path for path in CONFIGS if path not in FITS and path not in SUITES]
PRESETS = [path for path in CONFIGS if path.parent.name in ("agdm", "diffpure", "ndc", "train")]
SIDE = 8


def identify(path: Path) -> str:
    return str(path.relative_to(ROOT / "configs"))


def nodes(config: Any) -> list[dict[str, Any]]:
    """All dictionaries in a configuration, outermost first."""
    if isinstance(config, list):
        return [node for entry in config for node in nodes(entry)]
    return [config, *(node for entry in config.values() for node in nodes(entry))] if isinstance(config, dict) else []


def loads(path: Path) -> list[str]:
    """The paths of all files that a configuration names."""
    named = [node for node in nodes(read_config(path)) if str(node.get("class_path")).startswith("load_")]
    return [node["init_args"]["path"] for node in named]


def cards(path: Path) -> list[str]:
    """The cards of files to fetch that a configuration names; bundled ones are there."""
    named = [node for node in nodes(read_config(path)) if str(node.get("class_path")).startswith("published_")]
    return [name for node in named if (name := node["init_args"]["name"]) not in hub.BUNDLED]


def number_of_classes(path: str | Path) -> int:
    known = {"cifar100": 100, "imagenet": 1000, "celebahq": 2}
    return next((classes for word, classes in known.items() if word in str(path)), 10)


# ---- contents ----

SETTINGS = {  # (t_star, norm, eps) of the papers
    "diffpure/cifar10.yaml": (0.1, "inf", "8/255"),
    "diffpure/cifar10-l2.yaml": (0.075, 2, 0.5),
    "diffpure/cifar10-unseen.yaml": (0.125, "inf", "8/255"),
    "diffpure/imagenet.yaml": (0.15, "inf", "4/255"),
    "diffpure/celebahq.yaml": (0.5, "inf", "16/255"),
    "agdm/cifar10.yaml": (0.07, "inf", "8/255"),
    "agdm/cifar100.yaml": (0.07, "inf", "8/255"),
    "agdm/imagenet.yaml": (0.07, "inf", "4/255"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_are_the_papers(name):
    found = nodes(read_config(ROOT / "configs" / name))
    (t_star,) = [node["t_star"] for node in found if "t_star" in node]
    threat = next(node for node in found if "norm" in node)
    assert (t_star, threat["norm"], threat["eps"]) == SETTINGS[name]


@pytest.mark.parametrize("sigma", [0.25, 0.5, 1.0])
def test_ndc_is_smoothed_by_the_noise_it_reads(sigma):
    found = nodes(read_config(ROOT / "configs" / "ndc" / f"cifar10-sigma{sigma}.yaml"))
    assert [node["sigma"] for node in found if "sigma" in node] == [sigma, sigma]


FAST = {"diffpure/cifar10-fast.yaml": (100, (1, 2)), "agdm/cifar10-fast.yaml": (70, (2,))}


@pytest.mark.parametrize("name", FAST)
def test_fast_presets_are_the_same_experiment_under_an_engine(name):
    """They state the cost: 400 gradients, once or twice forward, 20 last draws, 43 decisions and signs of masking."""
    fast, plain = (read_config(ROOT / "configs" / one) for one in (name, name.replace("-fast", "")))
    engine = Engine(**fast["model"]["init_args"].pop("engine"))
    assert engine.precision == "bf16" and engine.memory == "auto"
    assert fast["model"]["init_args"].pop("records") != plain["model"]["init_args"].pop("records")
    assert fast == plain
    steps, passes = FAST[name]
    header = (ROOT / "configs" / name).read_text()
    for forward in passes:
        assert f" {round(steps * (400 * forward + 20 + 43), -2):,} " in header


@pytest.mark.parametrize("path", PRESETS, ids=identify)
def test_presets_name_their_source_and_evidence(path):
    header = "".join(line for line in path.read_text().splitlines(True) if line.startswith("#"))
    if path.parent.name != "train":
        assert re.search(r"arXiv \d{4}\.\d{5}", header)
        assert re.search(r"read (it |them )?(there|in)|not verified", header), "say where a number was read"
    for line in path.read_text().splitlines():
        assert not line.startswith("#") or len(line) <= 125


@pytest.mark.parametrize("path", [*CONFIGS, *BASES], ids=identify)
def test_classes_have_short_names(path):
    """Classes of this project and of Lightning; no file names a module."""
    named = [node["class_path"] for node in nodes(read_config(path)) if "class_path" in node]
    assert all("." not in name for name in named)
    assert all(name in SHORT_NAMES or hasattr(callbacks, name) or hasattr(loggers, name) for name in named)


def test_every_base_is_shared():
    used = [base for path in CONFIGS for base in layers(path) if base in BASES]
    assert all(used.count(base) > 1 for base in BASES)


def test_records_and_exports_do_not_collide():
    configs = [*map(read_config, CONFIGS), *(yaml.safe_load(path.read_text()) for path in STUDIES)]
    for key in ("records", "export"):  # records in the folder of a study would be one more run of it
        named = [Path(node[key]) for config in configs for node in nodes(config) if key in node]
        assert all(path.is_relative_to("runs") for path in named)
        assert not [path for path in named for other in named if path is not other and path.is_relative_to(other)]


@pytest.mark.parametrize("path", PRESETS, ids=identify)
def test_presets_say_how_to_get_what_they_need(path):
    """Published weights come by the names of cards, which one command fetches; all else was trained here."""
    said = re.findall(r"robust-diffusion fetch (.*)", path.read_text())
    assert sorted(" ".join(said).split()) == sorted(cards(path))
    assert {*cards(path)} <= {*CARDS}
    assert all(file.startswith("runs/") for file in loads(path))
    assert ".cache" not in path.read_text()  # ROBUST_DIFFUSION_CACHE says where it is
    made = {node.get("export") for other in FITS for node in nodes(read_config(other))}
    for name in re.findall(r"robust-diffusion (?:fit|test|predict) -c ([\w./-]+)", path.read_text()):
        assert find_preset(name), f"there is no preset {name}"
    for file in loads(path):
        if "cifar10-" in file:
            assert file in made, f"nothing here makes {file}"


# ---- stand-ins ----

SMALL = {"image_size": SIDE, "num_res_blocks": 1}
EDM = {"img_resolution": SIDE, "img_channels": 3, "channel_mult": [1], "num_blocks": 1, "attn_resolutions": []}
TINY: dict[str, dict[str, Any]] = {  # the publishers' options of small networks, by card
    "score_sde_cifar10": SMALL | {"nf": 8, "ch_mult": [1, 1], "attn_resolutions": []},
    "guided_diffusion_imagenet256": SMALL
    | {"model_channels": 32, "out_channels": 6, "attention_resolutions": [], "channel_mult": [1, 1]},
    "sdedit_celebahq256": SMALL | {"ch": 32, "ch_mult": [1, 1], "attn_resolutions": []},
    "edm_cifar10_conditional": EDM | {"model_type": "SongUNet", "model_channels": 8, "dropout": 0.0, "label_dim": 10},
    "edm_cifar10_unconditional": EDM | {"model_type": "SongUNet", "model_channels": 8, "dropout": 0.0},
    "edm_imagenet64_conditional": EDM
    | {"model_type": "DhariwalUNet", "model_channels": 64, "dropout": 0.0, "label_dim": 1000},
    "robustbench_cifar10_standard": {"depth": 10, "widen_factor": 1, "num_classes": 10},
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with files of random weights: small networks of all cards, and an ImageNet one with ten classes."""
    folder = tmp_path_factory.mktemp("cache")
    for name, options in {**TINY, "ten": TINY["edm_imagenet64_conditional"] | {"label_dim": 10}}.items():
        torch.manual_seed(0)
        described = build_body(CARDS.get(name, CARDS["edm_imagenet64_conditional"]).format, options)
        state = type(described)(**described.config).state_dict()
        save_file({key: value.contiguous() for key, value in state.items()}, folder / f"{name}.safetensors")
    return folder


def own(path: str, loader: str) -> nn.Module:
    """Network that stands in for a file of ours, chosen by the file's name."""
    classes, (channels, side) = number_of_classes(path), (1, 8) if "tour" in path else (3, SIDE)
    torch.manual_seed(0)
    if "guidance" in path:
        return GuidanceNetwork(in_channels=channels, num_classes=classes, width=8)
    if loader == "load_denoiser":
        size = {"img_resolution": side, "img_channels": channels, "model_channels": 16, "channel_mult": [1]}
        body = DDPMpp(**size, label_dim=classes, num_blocks=1, attn_resolutions=[], dropout=0.0)
        return EDMDenoiser(body, num_classes=classes)
    return NetworkClassifier(SmallCNN(num_classes=classes, in_channels=channels))


@pytest.fixture
def stand_ins(tiny, monkeypatch) -> list[str]:
    """Cards and loaders read tiny files instead; the value lists the cards and paths that were requested."""
    requested: list[str] = []
    monkeypatch.setenv("ROBUST_DIFFUSION_CACHE", str(tiny))
    for name, options in TINY.items():
        card = replace(CARDS[name], config=options, filename=f"{name}.safetensors", sha256=None, size=None)
        monkeypatch.setitem(CARDS, name, card)
    real = hub.fetch

    def fetch(name: str, *arguments: Any) -> Path:
        requested.append(name)
        return real(name, *arguments)

    monkeypatch.setattr(hub, "fetch", fetch)

    def replaced(name: str) -> Any:
        real = getattr(checkpoints, name)

        @wraps(real)
        def load(path, format="safetensors", config=None, ema=True):
            if format != "safetensors":
                return real(path, format, config, ema)
            requested.append(str(path))
            assert config is None
            return own(str(path), name)

        return load

    for name in ("load_network", "load_denoiser", "load_classifier"):
        monkeypatch.setattr(checkpoints, name, replaced(name))
    create = timm.create_model

    def tiny_model(name: str, pretrained: bool, **options: Any) -> nn.Module:
        assert pretrained, f"{name} must come with its weights"
        return create("test_resnet", pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", tiny_model)
    return requested


@pytest.fixture
def construct(monkeypatch):
    """``construct(command, file)``: the model and the data that the command line builds, without running anything."""

    def read(command: str, path: Path) -> tuple[L.LightningModule, L.LightningDataModule]:
        built: list[CLI] = []
        monkeypatch.setattr(CLI, "_run_subcommand", lambda self, _: built.append(self))
        monkeypatch.setattr(CLI, "_dump_config", lambda self: vars(self).setdefault("config_dump", {}))  # unused
        cli.main([command, "-c", str(path), "--trainer.accelerator=cpu", "--trainer.logger=false"])
        return built[0].model, built[0].datamodule

    return read


# ---- construction and one batch ----


@pytest.mark.parametrize("path", FITS, ids=identify)
def test_a_fit_is_built(path, construct, stand_ins, monkeypatch):
    for kind in (WideResNet, CIFARResNet, DDPMpp):  # full size, but not filled with random numbers
        monkeypatch.setattr(kind, "__init__", on_meta(kind.__init__))
    model, data = construct("fit", path)
    assert model.export == read_config(path)["model"]["init_args"]["export"]
    assert any(parameter.requires_grad for parameter in model.trained().parameters())
    assert data.batch_size > 1


def on_meta(constructor):
    @wraps(constructor)
    def construct(self, *arguments, **options):
        with torch.device("meta"):
            constructor(self, *arguments, **options)

    return construct


UNNAMED = {one.__name__.lower(): one for one in (Elimination, Engine, Nodes, Reduction, Steering)} | {"blocks": Block}
"""Classes that jsonargparse takes from an argument's type, where a file gives a dictionary of their fields."""


def build(part: Any, key: str = "") -> Any:
    """The object that a part of a configuration describes, without the second that jsonargparse takes to parse it."""
    if isinstance(part, list):
        return [build(item, key) for item in part]
    if not isinstance(part, dict):
        return part
    if "class_path" not in part:
        return UNNAMED.get(key, dict)(**{name: build(value, name) for name, value in part.items()})
    kind = import_public(resolve_short_name(part["class_path"]))
    return kind(**{name: build(value, name) for name, value in part.get("init_args", {}).items()})


@pytest.mark.parametrize("path", TESTS, ids=identify)
def test_the_settings_of_a_test_are_valid(path, stand_ins):
    """At full size; the command line reads smaller presets in ``test_a_batch_runs_end_to_end``."""
    assert build(read_config(path)["model"]).evaluators


@pytest.mark.parametrize("path", STUDIES, ids=identify)
def test_the_cases_of_a_study_are_built(path, stand_ins, monkeypatch):
    """Directly; ``test_study`` runs a study by its command."""
    monkeypatch.chdir(ROOT)
    study = Study.read(path)
    assert study.title and not study.title.startswith("base:")
    assert len({*(str(Study.read(other).records) for other in STUDIES)}) == len(STUDIES)
    for case in study.combinations:
        assert build(case.settings["model"]).path == str(study.records / case.name)


SMALLER: dict[str, dict[str, Any]] = {  # by class
    "DiffPure": {"steps": 2},
    "AGDM": {"steps": 2},
    "GradualNoise": {"blocks": [{"t_star": 0.002, "rounds": 2, "surrogate": 1}, {"t_star": 0.003}]},
    "Resized": {"size": SIDE},
    "NoisedDiffusionClassifier": {"nodes": 5},
    "Sifting": {"nodes": {"count": 3, "rule": "reference"}, "keep": 4},
    "DenoisedClassifier": {"steps": 2, "votes": 2},
    "BoundedDiffusionClassifier": {"nodes": 2},
    "Lipschitz": {"samples": 70},
    "Claimed": {"samples": 1},
    "PGD": {"steps": 1, "eot": 2, "chunk": 16},
    "APGD": {"steps": 1, "eot": 2},
    "Staged": {"pool_targets": 1, "pool_steps": 1, "kept": 1, "steps": 1, "eot": 2, "refine_eot": 2, "draws": 2},
    "Surrogate": {"steps": 1},
    "Adjoint": {"dt": 0.05},
    "TorchAttacks": {"options": {"steps": 1}},
    "StAdv": {"steps": 1, "eot": 2, "chunk": 16},
    "Smoothing": {"n0": 2, "n": 10},
    "Sequential": {"n0": 2, "n": 20, "first": 10, "targets": [0.1]},
    "Forecast": {"limit": 8},
    "Clean": {"draws": 2},
    "Attacked": {"draws": 2, "keep_images": 1},
}


def reduce(config: dict[str, Any]) -> dict[str, Any]:
    """The same with few steps and draws; of a thousand classes ten are left."""
    for node in nodes(config):
        node.get("reduction", {}).update(larger=SIDE, smaller=SIDE // 2)
        name = node.get("class_path")
        if name in SMALLER:
            arguments = node.setdefault("init_args", {})
            published = arguments.get("weight") == "reference"  # a sum over nodes of its own
            arguments.update(SMALLER[name] | ({"nodes": {"count": 6, "rule": "reference"}} if published else {}))
        if node.get("num_classes") == 1000:
            node["num_classes"] = 10
        if node.get("precision") == "bf16" and not has_bf16_units():
            node["precision"] = "32"  # bf16 is emulated, a hundred times slower
    return config


def shape_of(config: Any) -> Any:
    """A configuration without its numbers and paths; of a list of equal shapes one is left."""
    if isinstance(config, dict):
        return {key: shape_of(value) for key, value in config.items()}
    if isinstance(config, list):
        shapes = [shape_of(entry) for entry in config]
        return [shape for shape, before in zip(shapes, [None, *shapes], strict=False) if shape != before]
    number = isinstance(config, int | float) and not isinstance(config, bool)
    return "number" if number else "path" if "/" in str(config) else config


def distinct(paths: list[Path]) -> list[Path]:
    """The first file of each shape, once it is made smaller; ``test_the_settings_of_a_test_are_valid`` builds all."""
    known = {json.dumps(shape_of(reduce(read_config(path)))): path for path in reversed(paths)}
    return sorted(known.values())


@pytest.mark.parametrize("path", distinct(TESTS), ids=identify)
def test_a_batch_runs_end_to_end(path, construct, stand_ins, tmp_path, monkeypatch):
    ten = replace(CARDS["edm_imagenet64_conditional"], filename="ten.safetensors")
    monkeypatch.setitem(CARDS, "edm_imagenet64_conditional", replace(ten, config=ten.config | {"label_dim": 10}))
    config = read_config(path)
    smaller = reduce(deepcopy(config))
    if path.is_relative_to(ROOT / "configs" / "studies"):  # of the same classes as the presets
        model, data = build(smaller["model"]), build(smaller["data"])
    else:
        small = tmp_path / "small.yaml"
        small.write_text(yaml.safe_dump(smaller))
        model, data = construct("test", small)
    assert type(model).__name__ == config["model"]["class_path"]
    assert model.path == config["model"]["init_args"]["records"]
    assert len(model.evaluators) == len(config["model"]["init_args"]["evaluators"])
    assert sorted(stand_ins) == sorted([*loads(path), *cards(path)])
    assert not any(parameter.requires_grad for parameter in model.classifier.parameters())
    assert type(data).__name__ == config["data"]["class_path"]
    grey = "runs/tour/" in str(config)  # the networks of digits
    side = 32 if "cifar10_jpeg" in str(config) else 7 if path.name == "imagenet.yaml" else SIDE  # the bundled are real
    image = torch.rand(2, *((1, 8, 8) if grey else (3, side, side)), generator=torch.Generator().manual_seed(0))
    batch = (image, torch.tensor([0, 1]), torch.tensor([3, 5]))
    for evaluator in model.evaluators:
        rows = evaluator(model.classifier, batch)
        assert [(row.evaluator, row.index) for row in rows] == [(evaluator.name, 3), (evaluator.name, 5)]
        assert all(isinstance(row, CertifiedRecord) or len(row.correct) > 0 for row in rows)


# ---- errors and arguments ----


def test_without_the_weights_a_preset_says_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setenv("ROBUST_DIFFUSION_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"robust-diffusion fetch score_sde_cifar10 .*save it there"):
        cli.main(["test", "-c", str(ROOT / "configs" / "diffpure" / "cifar10.yaml")])
    assert not list(tmp_path.iterdir())


def test_a_preset_takes_what_was_trained_here(stand_ins, monkeypatch):
    """By the arguments that configs/train/cifar10-denoiser.yaml gives."""
    text = (ROOT / "configs" / "train" / "cifar10-denoiser.yaml").read_text()
    lines = [line[1:].split("--", 1)[1] for line in text.splitlines() if line.startswith("#") and "--model" in line]
    words = [word for line in lines for word in f"--{line}".split()]
    built: list[CLI] = []
    monkeypatch.setattr(CLI, "_run_subcommand", lambda self, _: built.append(self))
    cli.main(["test", "-c", str(ROOT / "configs" / "diffpure" / "cifar10.yaml"), *words])
    assert sorted(stand_ins) == ["robustbench_cifar10_standard", "runs/train/cifar10-denoiser.safetensors"]
    assert isinstance(built[0].model.classifier.classifier.purifier.denoiser, EDMDenoiser)


def test_ones_own_resnet_stands_in_for_the_papers(stand_ins, tmp_path, construct):
    """By the lines in the header of configs/diffpure/cifar10-unseen.yaml."""
    torch.manual_seed(0)
    trained = CIFARResNet()
    torch.save({"net": {f"module.{name}": value for name, value in trained.state_dict().items()}}, tmp_path / "own.pt")
    text = (ROOT / "configs" / "diffpure" / "cifar10-unseen.yaml").read_text()
    lines = [line[4:] for line in text.partition("# Published")[0].splitlines() if line.startswith("#   ")]
    classifier = "\n".join(lines).replace("FILE", str(tmp_path / "own.pt"))
    config = read_config(ROOT / "configs" / "diffpure" / "cifar10-unseen.yaml")
    config["model"]["init_args"]["classifier"] = yaml.safe_load(classifier)
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(config))
    model, _ = construct("test", tmp_path / "own.yaml")
    assert torch.equal(model.classifier.classifier.classifier.network.linear.weight, trained.linear.weight)
