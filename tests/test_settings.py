"""Settings of every public class: what means nothing is refused by the constructor, with the argument's name."""

import inspect
import math
import re
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import robust_diffusion as rd
import torch

from common.checks.settings import check_count, check_fraction, check_length, check_number, check_ratio
from tests.public_classes import arguments_of, classes, examples

BAD = {
    "inf": math.inf,
    "nan": math.nan,
    "-1": -1,
    "0": 0,
    "0.5": 0.5,
    "True": True,
    "abc": "abc",
    "[]": [],
    "huge": 10**400,  # no float holds it
    "-huge": -(10**400),
    "array": np.array([1.0, math.nan]),
    "1e308": 1e308,  # infinite in float32
}

USUAL = {bool: {"True"}, float: {"0.5"}, str: {"abc"}, Path: {"abc"}}
"""Values that an argument of a type may accept; of the choices in a Literal it is none of these."""

ZERO = """
    augment_dim clean count cutout dead distance draws dropout errors eta evaluations futility index init_scale
    keep_images label label_dim label_dropout label_scale label_smoothing latent_scale margin masking mean memory
    momentum noise_sigma p_lower p_mean p_value parameters peak_bytes power prediction queries radius radius_linf
    rank samples scale second seconds seed shift sigma_min smoothness spread start std stds t_end val_steps warmup
    weight weight_decay workers
"""
"""Arguments of which 0 means something: none, the first, the clean image, the last time."""

OTHERS = {
    "-1": """
        ADM.num_head_channels ADM.num_heads_upsample Certificate.prediction ClassifierFree.weight DenoiserTask.p_mean
        LogNormal.mean ReferenceWeight.mean OpenEndedDenoiserTask.p_mean SmoothedPrediction.prediction""",
    "0": """
        GuidanceClassifier.sigma Noise.depth Staged.pool Staged.pool_targets Staged.random Staged.refinements
        Staged.targets Staged.warm Summary.n""",
    "array": "Step.draws",
    "inf": "Elimination.margin ThreatModel.norm",
    "[]": """
        ADM.attention_resolutions AttackedRecord.curve AttackedRecord.random_predictions Certificate.undecided
        DDPMpp.attn_resolutions DDPMUNet.attn_resolutions EDMADM.attn_resolutions ForecastRecord.undecided
        GradientCheck.gradients GradientCheckRecord.findings NCSNpp.attn_resolutions""",
}
"""Other values that mean something: defaults in their publisher's notation, abstention, an open end."""

DOWNLOADS = {("TimmNetwork", "pretrained", "True")}
OPTIONAL = {"ReferenceAutoAttack", "UNet2D"}  # need a package that may be missing


def allowed(name: str, argument: str, one: type) -> set[str]:
    """Names of the `BAD` values that mean something for an argument of a public class."""
    kinds = members(hints(one).get(argument, Any))
    usual = {value for kind in kinds for value in USUAL.get(kind, set())}
    zero = {"0"} if argument in ZERO.split() and {int, float} & kinds else set()
    return usual | zero | {value for value, names in OTHERS.items() if f"{name}.{argument}" in names.split()}


@cache
def hints(one: type) -> dict[str, Any]:
    """Declared types of a class's arguments and of those of its bases."""
    found: dict[str, Any] = {}
    for base in reversed(inspect.getmro(one)):
        found |= get_type_hints(base.__init__) if base.__init__ is not object.__init__ else {}
    return found


def members(kind: Any) -> set[Any]:
    """The types of a union, or the one type."""
    if get_origin(kind) not in (Union, UnionType):
        return {kind}
    return {part for one in get_args(kind) for part in members(one)}


def verdict(name: str, one: type, arguments: dict[str, Any], argument: str, shown: str) -> str:
    """Fault of a constructor that is given a bad value, or nothing."""
    try:
        one(**{**arguments, argument: BAD[shown]})
    except ImportError:  # an optional package, after the settings were checked
        pass
    except (TypeError, ValueError) as error:
        return "" if re.search(rf"\b{argument}\b", str(error)) else f"refused without its name: {error}"
    except Exception as error:
        return f"raises {type(error).__name__}: {error}"
    return "" if shown in allowed(name, argument, one) else "accepted"


def test_every_class_has_an_example(tmp_path):
    assert sorted(examples(tmp_path)) == sorted(classes())


def test_what_means_nothing_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # "abc" is a folder of records
    (tmp_path / "indices.txt").write_text("0")
    found = {
        f"{name}({argument}={shown})": verdict(name, one, examples(tmp_path)[name], argument, shown)
        for name, one in classes().items()
        for argument in arguments_of(one)
        for shown in BAD
        if (name, argument, shown) not in DOWNLOADS
    }
    assert len(found) > 6000
    assert not {case: wrong for case, wrong in found.items() if wrong}


def test_examples_are_accepted(tmp_path):
    """An example that is refused would let every bad value pass."""
    (tmp_path / "indices.txt").write_text("0")
    built = {name: one(**examples(tmp_path)[name]) for name, one in classes().items() if name not in OPTIONAL}
    assert all(isinstance(built[name], one) for name, one in classes().items() if name in built)


def test_sizes_beyond_any_memory_are_refused_at_once():
    """They are refused before anything is built."""
    for build in (
        lambda size: rd.TimeGrid.uniform(0.1, steps=size),
        lambda size: rd.GaussianMixture(torch.rand(2, 1, 4, 4), 0.1, num_classes=size),
        lambda size: rd.SmallCNN(num_classes=size, in_channels=1),
        lambda size: rd.DDPM(num_steps=size),
    ):
        for size in (10**7, 10**12, 10**400):
            with pytest.raises(ValueError, match=r"(steps|num_classes) must be an integer >= \d and <= 1e\+06"):
                build(size)


def test_a_count_is_an_integer_of_pytorch_and_a_number_a_float():
    assert check_count("n", 2**63 - 1) == 2**63 - 1
    for check in (check_count, check_number, check_ratio, check_length, check_fraction):
        with pytest.raises(ValueError, match="n must be"):
            check("n", 10**400)
