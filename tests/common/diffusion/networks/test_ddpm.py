"""The U-Net of Ho et al. in SDEdit naming: parity, the published size, and its options."""

from typing import Any

import pytest
import torch
from torch import Tensor

from common.diffusion.networks import DDPMUNet

SMALL: dict[str, Any] = {
    "image_size": 8,
    "in_channels": 2,
    "out_ch": 2,
    "ch": 32,
    "ch_mult": [1, 2],
    "num_res_blocks": 1,
}


def images(rows: int = 2) -> Tensor:
    return torch.randn(rows, 2, 8, 8, generator=torch.Generator().manual_seed(1))


def test_parity_with_the_published_network(published, relative_error):
    reference = published("sdedit_ddpm_small")
    config = {k: v for k, v in reference.config.items() if k not in ("type", "var_type", "ema_rate", "ema")}
    network = DDPMUNet(**config).eval()
    network.load_state_dict(reference.state, strict=True)
    assert [name for name, _ in network.named_parameters()] == list(reference.spec["tensors"])
    with torch.no_grad():
        eps = network(reference.arrays["x"], reference.arrays["t"])
    assert relative_error(eps, reference.arrays["eps"]) < 5e-6


def test_size_of_the_published_celeba_network():
    with torch.device("meta"):
        network = DDPMUNet(256)
    assert sum(p.numel() for p in network.parameters()) == 113_673_219
    assert len(network.state_dict()) == 450


@pytest.mark.parametrize(
    "options",
    [
        {"attn_resolutions": [4]},
        {"attn_resolutions": [8, 4], "resamp_with_conv": False},
        {"num_res_blocks": 3, "ch_mult": [2, 1, 1]},
    ],
)
def test_every_option_runs_and_uses_every_parameter(options, awake):
    network = awake(DDPMUNet(**(SMALL | options)))
    out = network(images(), torch.tensor([3, 700]))
    assert out.shape == (2, 2, 8, 8)
    gradients = torch.autograd.grad(out.square().sum(), list(network.parameters()))
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


def test_attention_follows_every_block_of_its_levels():
    names = set(DDPMUNet(**SMALL, attn_resolutions=[4]).state_dict())
    assert {f"{level}.attn.{k}.q.weight" for level, n in (("down.1", 1), ("up.1", 2)) for k in range(n)} <= names
    assert not any(name.startswith(("down.0.attn", "up.0.attn")) for name in names)
    assert "down.0.downsample.conv.weight" in names
    assert not any("sample" in name for name in DDPMUNet(**SMALL, resamp_with_conv=False).state_dict())


def test_convolution_of_stride_two_pads_below_and_right(awake):
    """Its first output is centred on sample (1, 1) of the image, not on (0, 0)."""
    network = awake(DDPMUNet(**SMALL))
    conv, x = network.down[0].downsample.conv, torch.zeros(1, 32, 8, 8)
    x[:, :, 2, 2] = 1.0
    out = network.down[0].downsample(x) - conv.bias[:, None, None]
    torch.testing.assert_close(out[0, :, 0, 0], conv.weight[:, :, 2, 2].sum(1))
    torch.testing.assert_close(out[0, :, 1, 1], conv.weight[:, :, 0, 0].sum(1))


def test_twice_differentiable(awake):
    network = awake(DDPMUNet(**(SMALL | {"ch_mult": [1, 1]}))).double()
    x = images(1).double().requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: network(x, torch.tensor([4])), x, fast_mode=True)


def test_config_rebuilds_the_network():
    network = DDPMUNet(**SMALL, attn_resolutions=(4,))
    rebuilt = DDPMUNet(**network.config)
    rebuilt.load_state_dict(network.state_dict(), strict=True)
    assert rebuilt.config == network.config


@pytest.mark.parametrize(("change", "message"), [({"image_size": 9}, "multiple of 2"), ({"ch": 48}, "multiples of 32")])
def test_sizes_that_do_not_fit(change, message):
    with pytest.raises(ValueError, match=message):
        DDPMUNet(**(SMALL | change))
