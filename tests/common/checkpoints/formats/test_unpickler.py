"""Reading tensors out of pickled objects: everything is recovered, nothing is run."""

import io
import os
import pickle
import pickletools
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from common.checkpoints.formats import unpickler
from common.checkpoints.formats.unpickler import TensorUnpickler, read_tensors


@pytest.fixture
def network(persistent):
    class Precond(persistent):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.sigma_data = 0.5
            self.model = nn.ModuleDict({"8x8_conv": nn.Conv2d(3, 4, 3), "norm": nn.GroupNorm(2, 4)})
            self.inner = InnerBlock()
            self.register_buffer("resample_filter", torch.ones(1, 1, 2, 2) / 4)
            self.register_buffer("passing", torch.ones(3), persistent=False)
            self.register_buffer("none", None)
            self.turned = nn.Parameter(torch.arange(6.0).reshape(2, 3).t().half())
            self.tail = nn.Parameter(torch.arange(10.0)[7:])

    class InnerBlock(persistent):
        def __init__(self):
            super().__init__()
            self.affine = nn.Linear(2, 3)
            self.skip = None

    return Precond()


@pytest.mark.parametrize("protocol", [0, 2, 4, pickle.HIGHEST_PROTOCOL])
def test_every_tensor_is_recovered(network, tmp_path, protocol):
    extras = {"dataset_kwargs": {"path": "x", "resolution": 8}, "scale": np.float64(2), "table": np.arange(3)}
    (tmp_path / "net.pkl").write_bytes(pickle.dumps({"ema": network, "loss_fn": nn.MSELoss(), **extras}, protocol))
    tensors = read_tensors(tmp_path / "net.pkl", "ema")
    expected = network.state_dict()
    assert set(tensors) == set(expected)
    for name, value in expected.items():
        assert tensors[name].dtype == value.dtype
        torch.testing.assert_close(tensors[name], value, rtol=0, atol=0)
        assert not tensors[name].requires_grad
    assert not (tmp_path / "RAN").exists()


class Run:
    """A pickle that calls ``function(*arguments)`` when it is read."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("place", ["root", "beside", "inside", "storage"])
def test_a_command_is_refused_and_not_executed(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = Run(os.system, "touch RAN")
    net = nn.Linear(2, 2)
    if place == "inside":
        net.extra = command
    content = {"root": command, "beside": {"ema": net, "x": command}, "inside": {"ema": net}}.get(place)
    if place == "storage":  # a storage is a file in a file: which may be malicious too
        content = {"ema": Run(torch.storage._load_from_bytes, pickle.dumps(command, 2))}
    (tmp_path / "net.pkl").write_bytes(pickle.dumps(content))
    message = r"it names (posix|nt)\.system, which is code and no tensor\. Nothing in it was executed\."
    with pytest.raises(ValueError, match=message) as error:
        read_tensors(tmp_path / "net.pkl", "ema")
    assert "\n" not in str(error.value) and "weights_only" not in str(error.value)
    assert os.listdir(tmp_path) == ["net.pkl"]


@pytest.mark.parametrize("name", ["eval", "exec", "getattr", "__import__", "open", "compile", "setattr", "globals"])
def test_builtins_are_refused(name):
    with pytest.raises(pickle.UnpicklingError, match=f"builtins.{name}"):
        TensorUnpickler(io.BytesIO()).find_class("builtins", name)


def test_allowed_names_are_harmless():
    """Containers, inert objects, and this module's own functions on tensors."""
    for allowed in unpickler.ALLOWED.values():
        assert allowed in (OrderedDict, set, unpickler.InertObject) or allowed.__module__ == unpickler.__name__


def test_damaged_and_foreign_pickles(network, tmp_path):
    path = tmp_path / "net.pkl"
    content_bytes = pickle.dumps({"ema": network})
    for length in (0, 1, 20, len(content_bytes) // 2, len(content_bytes) - 1):
        path.write_bytes(content_bytes[:length])
        with pytest.raises(ValueError, match=r"cannot be read as a pickled network: it is damaged, .* \([^)]+\)"):
            read_tensors(path, "ema")
    for content in ([1, 2], {"net": 1}, {"ema": {"weight": 1}}):
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(ValueError, match="a network under 'ema'"):
            read_tensors(path, "ema")


def test_a_tensor_cannot_reach_beyond_its_data(tmp_path):
    storage = torch.storage.TypedStorage(
        wrap_storage=torch.arange(4.0).untyped_storage(), dtype=torch.float32, _internal=True
    )
    stored = Run(torch._utils._rebuild_tensor_v2, storage, 2, (3,), (1,), False, OrderedDict())
    (tmp_path / "net.pkl").write_bytes(pickle.dumps({"ema": stored}))
    with pytest.raises(ValueError, match="larger than its data"):
        read_tensors(tmp_path / "net.pkl", "ema")


def test_the_simulated_pickle_has_edms_layout(network):
    """It holds source code, a reconstructing call, and nested states."""
    named = {str(argument) for _, argument, _ in pickletools.genops(pickle.dumps(network, 2)) if argument is not None}
    assert "torch_utils.persistence _reconstruct_persistent_obj" in named
    assert any("touch RAN" in text for text in named)
    assert "torch.storage _load_from_bytes" in named
