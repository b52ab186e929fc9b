"""State after an evaluation: the module, the folders and the generators are as before."""

import os
import shutil
import signal
import tempfile

import pytest
import torch
from torch import nn

from common.api import certify, evaluate
from common.robustness import PGD, NetworkClassifier

pytestmark = pytest.mark.filterwarnings("ignore:classifier.network.4.calls changed")  # which is the point
QUIET = {"progress": False, "accelerator": "cpu"}
IMAGES, LABELS = torch.rand(20, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 3


class Counting(nn.Module):
    """A buffer that counts calls, as some normalisations do, in eval mode too."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        self.calls += 1
        return x


def network():
    layers = nn.Sequential(
        nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), Counting(), nn.Linear(8, 3)
    )
    layers.train()
    layers[3].eval()
    layers[1].weight.requires_grad_(False)
    layers[5].weight.grad = torch.ones_like(layers[5].weight)
    return layers


def state(module):
    """All that a user can see of a module."""
    return {
        "values": {name: (value.clone(), value.data_ptr()) for name, value in module.state_dict().items()},
        "modes": [part.training for part in module.modules()],
        "trained": [(p.requires_grad, None if p.grad is None else p.grad.clone()) for p in module.parameters()],
        "hooks": [len(part._forward_pre_hooks) + len(part._forward_hooks) for part in module.modules()],
        "attributes": [sorted(vars(part)) for part in module.modules()],
    }


def equal(first, second):
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(equal, first, second))
    return first == second


@pytest.mark.parametrize("wrap", [lambda module: module, NetworkClassifier], ids=["module", "classifier"])
@pytest.mark.parametrize("run", [lambda d: evaluate(d, IMAGES, LABELS, suite=[PGD(steps=2)], verify="warn", **QUIET),
                                 lambda d: certify(d, IMAGES, LABELS, n=20, n0=5, **QUIET)],
                         ids=["evaluate", "certify"])  # fmt: skip
def test_the_module_is_as_before(wrap, run):
    module = wrap(network())
    before = state(module)
    run(module)
    assert equal(state(module), before)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ZeroDivisionError()])
def test_so_it_is_after_an_error_and_an_interrupt(error):
    module = network()
    before, handler, modes = state(module), signal.getsignal(signal.SIGINT), []
    draws = torch.get_rng_state()

    def fail(*_):
        modes.append(module.training)
        if len(modes) > 4:
            raise error

    hook = module[1].register_forward_pre_hook(fail)
    with pytest.raises(type(error)):
        evaluate(module, IMAGES, LABELS, suite=[PGD(steps=20)], verify="off", **QUIET)
    hook.remove()
    assert modes == [False] * 5
    assert equal(state(module), before)
    assert signal.getsignal(signal.SIGINT) is handler
    assert torch.equal(torch.get_rng_state(), draws)


def test_no_file_and_no_draw_is_left_behind(tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    (tmp_path / "temporary").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    module, before = network(), torch.get_rng_state()
    result = evaluate(module, IMAGES, LABELS, suite=[PGD(steps=2)], verify="off", **QUIET)
    assert len(result.records) == 40
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(ValueError, match="labels must be in"):
        evaluate(network(), IMAGES, LABELS + 1, suite=[PGD(steps=2)], **QUIET)
    result.report(tmp_path / "page")
    for _ in range(2):
        evaluate(module, IMAGES, LABELS, suite=[PGD(steps=2)], verify="off", records=tmp_path / "records", **QUIET)
    assert sorted(path.name[:5] for path in (tmp_path / "records").iterdir()) == ["part-", "recor"]
    shutil.rmtree(tmp_path / "records")
    assert sorted(os.listdir(tmp_path)) == ["page", "temporary", "work"]
    assert not os.listdir(tmp_path / "work")
    assert not os.listdir(tmp_path / "temporary")


@pytest.mark.gpu
def test_a_module_on_the_cpu_goes_to_the_gpu_and_back():
    module, devices = network(), set()
    module[1].register_forward_pre_hook(lambda part, inputs: devices.add(inputs[0].device.type))
    before = state(module)
    evaluate(module, IMAGES, LABELS, suite=[PGD(steps=2)], verify="off", progress=False)
    assert devices == {"cuda"}
    assert {p.device.type for p in module.parameters()} == {"cpu"}
    assert equal(state(module) | {"hooks": 0}, before | {"hooks": 0})
