"""Weights as people keep them: wrapped, nested, with options of the training beside them, normalising their input."""

import argparse
import types
import warnings
from collections import OrderedDict
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from common.checkpoints.formats.wrapped_names import WRAPPERS, plain_names
from common.checkpoints.loading import load_classifier, load_network
from common.checkpoints.saving import save
from common.hub.published import load_weights
from common.networks import SmallCNN, TimmNetwork, WideResNet
from common.robustness import NetworkClassifier

MEAN, STD = [0.4914, 0.4822, 0.4465], [0.2471, 0.2435, 0.2616]
OPTIONS = {"depth": 10, "widen_factor": 1, "num_classes": 10}


def wide() -> WideResNet:
    torch.manual_seed(3)
    return WideResNet(10, 1).eval()


def wrapped(state: Any, prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for name, value in state.items()}


def loaded(content: Any, path: Path, network: nn.Module | None = None, zipped: bool = True) -> nn.Module:
    torch.save(content, path / "a.pt", _use_new_zipfile_serialization=zipped)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return load_weights(network or WideResNet(10, 1), path / "a.pt")


PREFIXES = ["".join(some) for count in (1, 2, 3) for some in permutations(WRAPPERS, count)]


@pytest.mark.parametrize("own", ["", "model.", "net.model.", "network."])
def test_prefixes_in_any_order_and_number(own: str) -> None:
    names = {f"{own}{name}" for name in ("conv1.weight", "model.bias", "layer.module.x")}
    state = {name: torch.zeros(1) for name in names}
    for prefix in [*PREFIXES, "module.module.module.", "model.model."]:
        assert set(plain_names(wrapped(state, prefix), names)) == names, prefix
    bare = {name.removeprefix(own): value for name, value in state.items()}
    assert set(plain_names(wrapped(bare, "module."), names)) == names


NESTS: dict[str, Any] = {
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "network": lambda state: {"network": wrapped(state, "net._orig_mod."), "best": 0.9},
    "twice": lambda state: {"state_dict": {"model": state, "step": 1}},
    "three times": lambda state: {"model": {"net": {"state_dict": wrapped(state, "module.")}}},
    "average in a nest": lambda state: {"checkpoint": 1, "model": {"ema": state, "decay": 0.99}},
    "a setting named ema": lambda state: {"net": state, "ema": 0.999, "model_ema": False, "swa_model": "none"},
    "Namespace": lambda state: {"net": state, "args": argparse.Namespace(lr=0.1, inner=argparse.Namespace(a=[1]))},
    "SimpleNamespace": lambda state: {"model": state, "config": types.SimpleNamespace(lr=0.1, path=Path("x"))},
    "OrderedDict": lambda state: OrderedDict(state_dict=OrderedDict(state), hparams=argparse.Namespace()),
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("nest", NESTS)
def test_nests_and_what_trainers_keep_beside_them(nest: str, zipped: bool, tmp_path: Path) -> None:
    state = wide().state_dict()
    network = loaded(NESTS[nest](state), tmp_path, zipped=zipped)
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


def test_options_of_a_training_are_inert(tmp_path: Path) -> None:
    class Deceiving(argparse.Namespace):
        pass

    Deceiving.__module__, Deceiving.__qualname__ = "argparse", "ArgumentParser"
    argparse.ArgumentParser, kept = Deceiving, argparse.ArgumentParser  # type: ignore[misc]
    try:
        torch.save({"net": {}, "args": Deceiving()}, tmp_path / "a.pt")
    finally:
        argparse.ArgumentParser = kept  # type: ignore[misc]
    with pytest.raises(ValueError, match=r"it names argparse\.ArgumentParser"):
        load_weights(wide(), tmp_path / "a.pt")


NORMALISED: dict[str, Any] = {
    "mu": lambda mean, std, state: {"mu": mean[None], "sigma": std[None], **state},
    "module.mu": lambda mean, std, state: wrapped({"mu": mean, "sigma": std, **state}, "module."),
    "a network inside": lambda mean, std, state: {"mean": mean, "std": std, **wrapped(state, "model.")},
    "a layer": lambda mean, std, state: {**wrapped({"mean": mean, "std": std}, "normalize."), **wrapped(state, "net.")},
}


@pytest.mark.parametrize("layout", NORMALISED)
def test_a_normalisation_in_the_file_is_applied(layout: str, tmp_path: Path) -> None:
    network, image = wide(), torch.rand(2, 3, 32, 32)
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    expected = network((image - mean) / std)
    content = NORMALISED[layout](mean, std, network.state_dict())
    classifier = loaded(content, tmp_path)
    torch.testing.assert_close(classifier(image), expected)
    save(classifier, tmp_path / "a.safetensors")  # the file describes it
    torch.testing.assert_close(load_classifier(tmp_path / "a.safetensors")(image), expected)
    torch.testing.assert_close(load_classifier(tmp_path / "a.pt", "robustbench_wrn", OPTIONS)(image), expected)
    torch.testing.assert_close(load_network(tmp_path / "a.pt", "robustbench_wrn", OPTIONS)(image), expected)
    same = {**OPTIONS, "mean": MEAN, "std": STD}
    torch.testing.assert_close(load_classifier(tmp_path / "a.pt", "robustbench_wrn", same)(image), expected)
    with pytest.raises(ValueError, match=r"holds its own mean, .*; the config has \[0\.5, 0\.5, 0\.5\]"):
        load_classifier(tmp_path / "a.pt", "robustbench_wrn", {**same, "mean": [0.5] * 3})


def test_a_networks_own_mean_is_no_normalisation_of_its_input(tmp_path: Path) -> None:
    class Centred(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mu", torch.zeros(3))
            self.register_buffer("sigma", torch.ones(3))

    assert isinstance(loaded({"mu": torch.ones(3), "sigma": torch.ones(3)}, tmp_path, Centred()), Centred)
    state = SmallCNN(10, 3, 8).state_dict()
    with pytest.raises(ValueError, match="left over: mean, std"):
        loaded({"mean": torch.zeros(100), "std": torch.zeros(100), **state}, tmp_path, SmallCNN(10, 3, 8))


def test_an_unused_copy_of_the_first_stage_is_left_out(tmp_path: Path) -> None:
    with_copy = WideResNet(10, 1, sub_block1=True).eval()
    image, state = torch.rand(2, 3, 32, 32), with_copy.state_dict()
    for content in (state, wrapped(state, "module."), {"state_dict": wrapped(state, "model.module.")}):
        torch.testing.assert_close(loaded(content, tmp_path)(image), with_copy(image))
        classifier = load_classifier(tmp_path / "a.pt", "robustbench_wrn", OPTIONS)
        torch.testing.assert_close(classifier(image), with_copy(image))
    assert isinstance(loaded(state, tmp_path, WideResNet(10, 1, sub_block1=True)), WideResNet)


def test_timms_own_weights_fit_into_its_wrapper(tmp_path: Path) -> None:
    wrapper = TimmNetwork("resnet10t", num_classes=3)
    other = TimmNetwork("resnet10t", num_classes=3)
    network = loaded({"state_dict": other.model.state_dict()}, tmp_path, wrapper)
    image = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(network(image), other.eval()(image))


def test_a_normalisation_beside_averaged_weights_is_kept(tmp_path: Path) -> None:
    network = wide()
    raw = {"mu": torch.tensor(MEAN), "sigma": torch.tensor(STD), **network.state_dict()}
    average = {name: value + 1 for name, value in network.named_parameters()}
    torch.save({"model": raw, "ema": average}, tmp_path / "a.pt")
    with pytest.warns(UserWarning, match="the averaged weights are read"):
        classifier = load_weights(WideResNet(10, 1), tmp_path / "a.pt")
    assert isinstance(classifier, NetworkClassifier) and classifier.mean is not None
