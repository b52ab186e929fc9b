"""Each argument and each attribute of every public class identifies a run, or is listed as of speed or derived."""

import copy
import inspect
from contextlib import suppress
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pytest
import robust_diffusion as rd
import torch
from torch import Tensor, nn

from common.data.image_data import ImageData
from common.naming import SHORT_NAMES
from common.records.attributes import left_out
from common.records.fingerprint import identify
from tests.public_classes import arguments_of, classes, examples
from tests.test_settings import OPTIONAL, hints, members

OUTSIDE = ("common.api", "common.hub", "common.records", "common.tasks")
"""Rooms without parts of a defence or of its evaluation."""

NOT_PARTS = """
    AGDMTask DiffPureTask GuidanceTask NDCTask Trades TradesLoss PGDTraining TradesTraining Augmentation
    AttackResult Certificate EOTLoss Meter Process SmoothedPrediction Step ImageDataset
    CelebAHQ Folder ImageFileData ImageFiles ImageNet CIFARResNet"""
"""Tasks, whose parts are walked through by themselves; training; values of one call; folders, whose files identify
them (tests/common/data/test_folders.py); and a large network."""

WITHOUT_EFFECT = """
    CIFAR10.path CIFAR10.size CIFAR100.path CIFAR100.size Digits.path Digits.size InMemory.path InMemory.size SVHN.path
    SVHN.size Synthetic.path Synthetic.size AutoAttack.implementation Baseline.seed Baseline.role Voting.draws"""
"""Arguments without an effect on these examples: images of ``predict``; "auto" that is what it chooses; the seed and
role of a baseline, which are given; draws of a deterministic classifier."""

UNTRIED = """
    AdaptedNetwork.film AdaptedNetwork.head ContrastiveGuidance.count Crop.timm_model Elimination.keep
    GaussianMixture.num_classes Listed.file Staged.source TimmNetwork.name TimmNetwork.options TimmNetwork.pretrained
    TimmNetwork.small_images"""
"""Arguments of which these examples take no other value: they need other weights, files or networks."""


def explicit_values():
    """Other values where no usual change is accepted, by argument, with or without the class."""
    denoiser, classes = rd.EDMDenoiser(nn.Identity(), num_classes=2), torch.tensor([1, 0])
    general = {
        "solver": rd.DDIM(0.7), "gradient": "bpda", "schedule": rd.DDPM(10, betas="cosine"), "loss": "dlr",
        "role": rd.Role.VARIANT, "posterior": rd.Posterior(1.0), "engine": rd.Engine("bf16"),
    }  # fmt: skip
    return general | {
        "AGDM.steering": rd.Steering(at="denoised"),
        "AGDM.solver": "ddim",
        "ADM.attention_resolutions": (4,),
        "ADM.num_head_channels": 32,
        "Adjoint.adjoint_method": "euler",
        "Baseline.classifier": rd.NetworkClassifier(nn.Flatten()),
        "BoundDenoiser.tensors": (torch.ones(2),),
        "EDMADM.attn_resolutions": (4,),
        "Elimination.stages": (2, 4),
        "Forecast.limit": 60,
        "FunctionAttack.function": print,
        "GaussianMixture.labels": classes,
        "GaussianMixture.weights": torch.tensor([0.25, 0.75]),
        "GradientCheck.gradients": [("pgd", "bpda")],
        "GradualNoise.t_end": 1e-3,
        "LPIPS.resize": 64,
        "LangevinDiffPure.dynamics": rd.Langevin(eta=0.5),
        "LikelihoodMaximisation.ascent": rd.GradientAscent(0.1),
        "NoisedDiffusionClassifier.elimination": rd.Elimination(),
        "NoisedDiffusionClassifier.unconditional": denoiser,
        "Posterior.log_prior": [-0.5, -1.0],
        "Sifting.nodes": rd.Nodes(8),
        "Surrogate.gradient": "full",
        "ThreatModel.norm": 2,
        "TorchAttacks.name": "PGD",
        "Voting.rule": "mean_logit",
        "WideResNet.depth": 16,
    }


def joint_values():
    """Changes of an argument that need another one."""
    three = rd.EDMDenoiser(nn.Identity(), num_classes=3)
    votes, normalisation = {"rule": "majority", "votes": 3}, {"mean": [0.5], "std": [0.25]}
    return {
        "APGD.targets": {"loss": "targeted_dlr", "targets": 2},
        "Attacked.rule": votes,
        "Attacked.votes": votes,
        "BoundedDiffusionClassifier.num_classes": {"denoiser": three, "num_classes": 3},
        "Clean.rule": votes,
        "Clean.votes": votes,
        "Crop.crop_pct": {"size": 4, "crop_pct": 0.5},
        "Crop.interpolation": {"size": 4, "interpolation": "bilinear"},
        "DenoisedClassifier.solver": {"steps": 2, "solver": "ddim"},
        "DenoisedClassifier.votes": {"steps": 2, "votes": 2},
        "Denoising.solver": {"steps": 2, "solver": "ddim"},
        "NetworkClassifier.mean": normalisation,
        "NetworkClassifier.std": normalisation,
        "NoisedDiffusionClassifier.num_classes": {"denoiser": three, "num_classes": 3},
        "NoisedDiffusionClassifier.reduction": {"unconditional": three, "reduction": rd.Reduction(8, 4)},
        "TorchAttacks.options": {"name": "PGD", "options": {"steps": 3}},
    }


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """(class, arguments) of every public class that can be a part of a run, by short name."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "indices.txt").write_text("0 1")
    (folder / "names.txt").write_text("a\nb\n")
    known, made = classes(), examples(folder)
    inside = {name: one for name, one in known.items() if not SHORT_NAMES[name].startswith(OUTSIDE)}
    kept = [name for name in inside if name in made and name not in NOT_PARTS.split() and name not in OPTIONAL]
    return {name: (inside[name], made[name]) for name in kept}


def fingerprint(part):
    return identify({"part": part})[0]


def with_other(part, attribute):
    """A copy of a part with another value of one attribute, buffer or part."""
    changed = copy.copy(part)
    if isinstance(part, nn.Module):
        vars(changed).update(_buffers=dict(part._buffers), _modules=dict(part._modules))
    places = (vars(changed), vars(changed).get("_buffers", {}), vars(changed).get("_modules", {}))
    place = next(held for held in places if attribute in held)
    place[attribute] = nn.Flatten() if isinstance(place[attribute], nn.Module) else torch.full((2,), 0.125)
    return changed


def attribute_faults(name, one, arguments):
    """Attributes whose change leaves the fingerprint as it was."""
    part = one(**arguments)
    if isinstance(part, ImageData):  # identified by its arguments
        return
    before, hidden = fingerprint(part), left_out(one) | set(vars(nn.Module()))
    for attribute in [*vars(part), *vars(part).get("_buffers", {}), *vars(part).get("_modules", {})]:
        if attribute not in hidden and fingerprint(with_other(part, attribute)) == before:
            yield f"{name}.{attribute}"


def other_values(kind, value):
    """Values that an argument may take instead of ``value``."""
    for one in members(kind):
        if get_origin(one) is Literal:
            yield from (choice for choice in get_args(one) if choice != value)
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield from (value + 1, value * 2, value - 1, value + 8, value * 32)
    elif isinstance(value, float):
        yield from (value * 1.5, value * 0.5, value + 0.25, value - 0.25)
    elif isinstance(value, Tensor):
        yield from (value * 0.5, value + 1)
    elif isinstance(value, list | tuple) and value:
        yield from ([*value, value[-1]], value[:1])
        yield from ([other, *value[1:]] for other in other_values(Any, value[0]))
    elif isinstance(value, str):
        yield from (f"{value}x", "4/255")
    elif hasattr(value, "__dict__") and not inspect.isclass(value):
        other = copy.copy(value)
        vars(other)["of_another"] = 1
        yield other
    if value is None:
        for one in members(kind):
            yield from {int: (3, 1), float: (0.5, 0.05, 2.0), str: ("x",), bool: (True,)}.get(one, ())


def changes(name, one, arguments, argument):
    """Changed arguments of a class, with another value of one of them."""
    joint, explicit = joint_values(), explicit_values()
    if (place := f"{name}.{argument}") in joint:
        yield joint[place]
    defaults = {p.name: p.default for base in one.__mro__ for p in inspect.signature(base).parameters.values()}
    value = arguments.get(argument, defaults.get(argument))
    yield from ({argument: explicit[key]} for key in (place, argument) if key in explicit)
    yield from ({argument: other} for other in other_values(hints(one).get(argument, Any), value))


def argument_faults(name, one, arguments):
    """Arguments whose change leaves the fingerprint as it was, or of which no other value is known."""
    before = fingerprint(one(**arguments))
    for argument in arguments_of(one):
        place = f"{name}.{argument}"
        if argument in left_out(one) or place in [*WITHOUT_EFFECT.split(), *UNTRIED.split()]:
            continue
        accepted = changed = False
        for change in changes(name, one, arguments, argument):
            with suppress(ValueError, TypeError, OSError, ImportError, RuntimeError, IndexError, AttributeError):
                changed = fingerprint(one(**{**arguments, **change})) != before
                accepted = True
            if changed:
                break
        if not changed:
            yield place if accepted else f"{place}: no other value"


def test_each_attribute_of_each_public_class_counts(parts):
    assert len(parts) > 90
    assert [fault for name, part in parts.items() for fault in attribute_faults(name, *part)] == []


def test_each_argument_of_each_public_class_counts(parts):
    assert [fault for name, part in parts.items() for fault in argument_faults(name, *part)] == []


class Sharpened(rd.Classifier):
    """A classifier from elsewhere, which keeps its arguments in its own ways."""

    margin = 0.5

    def __init__(self, temperature: float = 2.0, smooth: bool = False, slope: float = 0.1, shift: float = 0.25):
        super().__init__()
        self._temperature = temperature
        self.layers = nn.Sequential(nn.Flatten(), nn.GELU() if smooth else nn.ReLU(), nn.LeakyReLU(slope))
        self.register_buffer("shift", torch.full((32,), shift), persistent=False)
        self.options = {"clip": (True, 3)}


class Blurred(nn.Module):
    """A purifier from elsewhere."""

    def __init__(self, width: int = 3, levels: int = 8):
        super().__init__()
        self.kernel, self.rounding = torch.ones(width) / width, np.linspace(0, 1, levels)
        self.act = torch.relu


class Wandering(rd.Attack):
    """An attack from elsewhere."""

    def __init__(self, steps: int = 3, size: float = 0.5, chunk: int = 4):
        self.steps, self._size, self.chunk_size = steps, size, 1
        self.schedule = [Stage(size)] * steps

    @property
    def chunk(self) -> int:
        return 8

    def __call__(self, classifier, image, label, threat, noise):
        return image


class Stage:
    __slots__ = ("size",)

    def __init__(self, size):
        self.size = size


@pytest.mark.parametrize("one", [Sharpened, Blurred, Wandering])
def test_each_attribute_and_argument_of_a_foreign_class_counts(one):
    assert [*attribute_faults(one.__name__, one, {}), *argument_faults(one.__name__, one, {})] == []
    part = one()
    before = fingerprint(rd.NetworkClassifier(part) if isinstance(part, nn.Module) else [part])
    vars(part)["_more"] = 1
    assert fingerprint(rd.NetworkClassifier(part) if isinstance(part, nn.Module) else [part]) != before


def test_an_attribute_of_a_foreign_class_itself_counts(monkeypatch):
    before = fingerprint(Sharpened())
    monkeypatch.setattr(Sharpened, "margin", 0.25)
    assert fingerprint(Sharpened()) != before
