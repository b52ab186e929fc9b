"""An applied engine: precision inside the networks alone, nothing left behind, eager where compilation does not pay."""

import copy
import warnings
from concurrent.futures import ThreadPoolExecutor
from types import MethodType

import pytest
import torch
from torch import nn

from common.engine.compiled import Compiled
from common.engine.engine import Engine
from common.engine.networks import networks
from common.engine.precision import exact_precision, resolved
from common.noise import Noise
from tests.defences import agdm, batch, diffpure, head

CPU = torch.device("cpu")


class Wide(nn.Module):
    """A network of another package; it notes the dtype and the memory order of its hidden layer."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 1, 3, padding=1)
        self.seen = []

    def forward(self, x, scale=None):
        h = self.first(x)
        self.seen.append((h.dtype, h.is_contiguous(memory_format=torch.channels_last)))
        return {"image": self.second(h.relu()), "count": torch.arange(3)}


def images(rows=16):
    return torch.rand(rows, 1, 6, 6, generator=torch.Generator().manual_seed(0))


def test_networks_run_in_half_precision_and_return_that_of_their_input():
    network = Wide()
    exact = network(images())["image"]
    with Engine("bf16").applied(network):
        half = network(images())
        with exact_precision(), ThreadPoolExecutor() as threads:  # as CUDA's backward passes
            again = threads.submit(network, images()).result()["image"]
        double = copy.deepcopy(network).double()(images().double())["image"]
    assert [dtype for dtype, _ in network.seen] == [torch.float32, torch.bfloat16, torch.float32]
    assert half["image"].dtype == torch.float32 and half["count"].dtype == torch.int64
    assert torch.equal(again, exact) and double.dtype == torch.float64
    assert 1e-5 < (half["image"] - exact).abs().max() < 0.02


def test_a_call_by_keywords_runs_in_half_precision_too():
    network = Wide()
    with Engine("bf16", channels_last=True).applied(network):
        network(x=images())
    assert network.seen == [(torch.bfloat16, True)]


@pytest.mark.parametrize("compiled", [False, True])
def test_a_forward_pass_of_ones_own_is_the_one_that_runs(monkeypatch, compiled):
    """An attribute of the network itself, as instrumentation sets it; also in a copy, and afterwards."""
    monkeypatch.setattr(torch, "compile", lambda forward, **settings: forward)
    network = Wide()
    network.forward = MethodType(lambda self, x: {"image": 2 * self.second(self.first(x)), "kept": True}, network)
    own, expected = network.forward, network(images())["image"]
    with Engine("bf16", compile=compiled).applied(network):
        found, copied = network(images()), copy.deepcopy(network)(images())
    assert found["kept"] and copied["kept"] and network.forward is own
    assert 0 < (found["image"] - expected).abs().max() < 0.05
    assert torch.equal(copied["image"], found["image"])


class ForeignGuidance(nn.Module):
    """Guidance of another package, with or without a forward pass of its own."""

    def __init__(self, named):
        super().__init__()
        self.network = Wide()
        if named:
            self.forward = lambda x: self.network(x)["image"]

    def gradient(self, x, sigma, reference):
        return self.network(x)["image"] - reference


@pytest.mark.parametrize("named", [False, True])
def test_guidance_of_another_package_runs_under_the_engine(named):
    guidance = ForeignGuidance(named)
    assert networks(guidance) == [guidance.network]
    with Engine("bf16").applied(guidance):
        guidance.gradient(images(), None, images())
    assert guidance.network.seen[0][0] == torch.bfloat16


def test_everything_is_as_before_afterwards():
    network = Wide()
    before = dict(vars(network))
    expected = network(images())["image"]
    with Engine("bf16", channels_last=True, compile=True).applied(network):
        assert "forward" in vars(network)
    assert vars(network).keys() == before.keys()
    assert torch.equal(network(images())["image"], expected)


def test_memory_order_changes_inside_the_network():
    network = Wide()
    with Engine(channels_last=True).applied(network):
        network(images())
    assert network.seen[-1][1]


def test_a_copy_under_an_engine_runs_its_own_weights():
    network = Wide()
    with Engine("bf16").applied(network):
        other = copy.deepcopy(network)
        nn.init.zeros_(other.second.weight)
        nn.init.zeros_(other.second.bias)
        assert not other(images())["image"].any()
        assert network(images())["image"].any()


@pytest.mark.parametrize("make", [diffpure, agdm])
def test_the_whole_defence_is_differentiated_in_half_precision(make):
    """The gradient of the logits in bf16 points where that in float32 does, and states stay float32."""
    classifier = make().freeze()
    image, _, index = batch(16)

    def gradient():
        leaf = image.clone().requires_grad_()
        logits = classifier(leaf, Noise.of(0, index))
        assert logits.dtype == torch.float32
        return torch.autograd.grad(logits[:, 0].sum(), leaf)[0]

    exact = gradient()
    with Engine("bf16").applied(classifier):
        half = gradient()
    assert not torch.equal(half, exact)
    assert torch.cosine_similarity(half.flatten(), exact.flatten(), dim=0) > 0.98


@pytest.mark.parametrize(
    ("capabilities", "expected", "warned"),
    [({"amx_bf16": True}, {"auto": "bf16", "bf16": "bf16"}, False), ({}, {"auto": "32", "bf16": "bf16"}, True)],
)
def test_auto_takes_what_the_machine_does_fast(monkeypatch, capabilities, expected, warned):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        assert {name: resolved(name, CPU) for name in expected} == expected
        assert resolved("tf32", CPU) == "32"
    assert any("emulates" in str(warning.message) for warning in found) is warned


def test_a_network_that_cannot_be_compiled_runs_eagerly_with_a_warning(monkeypatch):
    network = head().network

    def fails(forward, dynamic):
        def compiled(*inputs, **named):
            raise RuntimeError("no compiler")

        return compiled

    monkeypatch.setattr(torch, "compile", fails)
    image = torch.rand(3, 1, 4, 4)
    expected = network(image)
    with Engine(compile=True).applied(network), pytest.warns(UserWarning, match="runs eagerly.*no compiler"):
        assert torch.equal(network(image), expected)


def test_a_compiled_network_gets_few_shapes_and_must_be_faster(monkeypatch):
    """The stand-in for a compiler notes the rows it is called with, and is slow while a gradient is recorded."""
    network, rows = head().network, []
    monkeypatch.setattr("common.engine.compiled._seconds", lambda way, inputs, named, gradient: next(times))

    def compile(forward, dynamic):
        assert dynamic is False

        def compiled(x):
            rows.append(len(x))
            return forward(x)

        return compiled

    monkeypatch.setattr(torch, "compile", compile)
    compiled = Compiled(network)
    times = iter([9.0, *[1.0, 1.05] * 3, 9.0, *[1.0, 1.06] * 3])
    for count in (1, 5, 16, 17, 33, 40):
        image = torch.rand(count, 1, 4, 4)
        torch.testing.assert_close(compiled(image), network(image))
    assert rows == [16, 16, 16, 32, 64, 64]
    leaf = torch.rand(5, 1, 4, 4, requires_grad=True)
    with pytest.warns(UserWarning, match="with a gradient here; compiled it has 0.94"):
        assert compiled(leaf).requires_grad
    assert len(rows) == 6


def test_a_settled_network_keeps_as_many_shapes_as_one_that_chooses(monkeypatch):
    """On ranks and starts that take a choice over, no shape runs eagerly without a word."""
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 8)
    Compiled(nn.Linear(2, 2)).settle({"forward": True, "gradient": True})
    assert torch._dynamo.config.recompile_limit == 64


def test_what_is_differentiated_twice_is_not_compiled(monkeypatch):
    compiled = []
    monkeypatch.setattr("common.engine.running.Compiled", lambda network: compiled.append(network) or network.forward)
    defence = agdm()
    purifier = defence.purifier
    with Engine(compile=True).applied(defence, purifier.differentiated_twice):
        pass
    assert len(compiled) == 2  # of the denoiser and of the classifier
    assert not any(part in set(purifier.guidance.modules()) for part in compiled)
