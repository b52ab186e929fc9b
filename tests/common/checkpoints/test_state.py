"""Networks without weights: the tensors of an ordinary construction, and no initial value computed."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from common.checkpoints.state import without_weights
from common.diffusion.networks import ADM, EDMADM, DDPMpp, DDPMUNet, NCSNpp
from common.networks import WideResNet


class Operations(TorchDispatchMode):
    """Names of the operations of torch that were run."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(function._schema.name)
        return function(*args, **(kwargs or {}))


BUILDS = {
    "linear and convolution": lambda: nn.Sequential(nn.Linear(3, 2), nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)),
    "DDPMpp": lambda: DDPMpp(img_resolution=8, img_channels=1, label_dim=10, model_channels=16, channel_mult=[1]),
    "EDMADM": lambda: EDMADM(img_resolution=8, img_channels=1, label_dim=10, model_channels=32, channel_mult=[1]),
    "ADM": lambda: ADM(image_size=32, model_channels=32, num_res_blocks=1, channel_mult=[1]),
    "DDPMUNet": lambda: DDPMUNet(image_size=16, ch=32, ch_mult=[1], num_res_blocks=1, attn_resolutions=[16]),
    "NCSNpp": lambda: NCSNpp(image_size=16, nf=16, ch_mult=[1], num_res_blocks=1, attn_resolutions=[16]),
    "WideResNet": WideResNet,
}


@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
def test_networks_without_weights_have_the_same_tensors(build):
    expected = build()
    with Operations() as run, without_weights():
        network = build()
    assert not {name for name in run.names if "uniform" in name or "normal" in name}
    assert all(parameter.is_meta for parameter in network.parameters())
    describe = lambda module: {n: (v.shape, v.dtype) for n, v in module.state_dict().items()}  # noqa: E731
    assert describe(network) == describe(expected)
    assert [p.requires_grad for p in network.parameters()] == [p.requires_grad for p in expected.parameters()]


def test_initial_values_are_drawn_again_afterwards():
    with without_weights():
        nn.Linear(2, 2)
    torch.manual_seed(0)
    first = nn.Linear(2, 2).weight
    torch.manual_seed(0)
    torch.testing.assert_close(first, nn.Linear(2, 2).weight, rtol=0, atol=0)
    assert first.std() > 0
