"""ADM in both namings: parity, published sizes, equality of the two, and every option."""

from typing import Any

import pytest
import torch
from torch import Tensor

from common.diffusion.networks import ADM, EDMADM
from common.hub.cards import get_card

SMALL: dict[str, Any] = {
    "image_size": 8,
    "in_channels": 2,
    "model_channels": 32,
    "out_channels": 4,
    "num_res_blocks": 1,
    "attention_resolutions": [2],
    "channel_mult": [1, 2],
    "num_heads": 2,
}


def images(rows: int = 2) -> Tensor:
    return torch.randn(rows, 2, 8, 8, generator=torch.Generator().manual_seed(1))


def count(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_parity_in_guided_diffusion_naming(published, relative_error):
    reference = published("guided_diffusion_small")
    config = {key: value for key, value in reference.config.items() if key not in ("use_checkpoint", "use_fp16")}
    network = ADM(**config).eval()
    network.load_state_dict(reference.state, strict=True)
    assert [name for name, _ in network.named_parameters()] == list(reference.spec["tensors"])
    with torch.no_grad():
        out = network(reference.arrays["x"], reference.arrays["t"])
    assert relative_error(out, reference.arrays["out"]) < 5e-6


def test_parity_in_edm_naming(published, relative_error):
    reference = published("edm_adm_cond_small")
    config = {key: value for key, value in reference.config.items() if key not in ("sigma_data", "model_type")}
    network = EDMADM(**config).eval()
    network.load_state_dict({key.removeprefix("model."): value for key, value in reference.state.items()}, strict=True)
    x, sigma, labels = (reference.arrays[key] for key in ("x", "sigma", "class_labels"))
    sigma, s = sigma[:, None, None, None], 0.5
    total = sigma**2 + s**2
    with torch.no_grad():
        body = network(x / total.sqrt(), sigma.flatten().log() / 4, labels)
    assert relative_error(s**2 / total * x + sigma * s / total.sqrt() * body, reference.arrays["denoised"]) < 5e-6


def test_size_of_the_published_imagenet_networks():
    config = get_card("guided_diffusion_imagenet256").config
    with torch.device("meta"):
        unconditional, conditional = ADM(**config), ADM(**config, num_classes=1000)
        edm = EDMADM(64, label_dim=1000)
    assert count(unconditional) == 552_814_086
    assert len(unconditional.state_dict()) == 566
    assert count(conditional) - count(unconditional) == 1000 * 4 * 256
    assert count(edm) == pytest.approx(295.9e6, abs=5e4)


# The same network under both namings ----------------------------------------------------------------------------------


def in_guided_naming(network: EDMADM) -> list[Tensor]:
    """Weights of an EDM-named network in the order of guided diffusion."""
    out: list[Tensor] = []
    for layer in (network.map_layer0, network.map_layer1):
        out += [layer.weight, layer.bias]
    out.append(network.map_label.weight.t())
    for layer in (*network.enc.values(), *network.dec.values(), network.out_norm, network.out_conv):
        if not hasattr(layer, "norm0"):
            out += [layer.weight, layer.bias]
            continue
        for part in (layer.norm0, layer.conv0, layer.affine, layer.norm1, layer.conv1, layer.skip):
            out += [part.weight, part.bias] if hasattr(part, "weight") else []
        if layer.heads:
            c = layer.out_channels
            # EDM: heads, channels of a head, (q, k, v); guided diffusion: heads, (q, k, v), channels of a head.
            weight = layer.qkv.weight.reshape(layer.heads, -1, 3, c).transpose(1, 2).reshape(3 * c, c, 1)
            bias = layer.qkv.bias.reshape(layer.heads, -1, 3).transpose(1, 2).reshape(3 * c)
            out += [layer.norm2.weight, layer.norm2.bias, weight, bias, layer.proj.weight[..., 0], layer.proj.bias]
    return out


def test_both_namings_are_one_network(awake, relative_error):
    edm = awake(EDMADM(8, 2, label_dim=3, model_channels=128, channel_mult=[1, 2], num_blocks=1, attn_resolutions=[4]))
    network = ADM(
        **(SMALL | {"model_channels": 128, "out_channels": 2}),
        num_classes=3,
        num_head_channels=64,
        use_scale_shift_norm=True,
        resblock_updown=True,
    ).eval()
    weights = in_guided_naming(edm)
    assert len(weights) == len(list(network.parameters()))
    with torch.no_grad():
        for parameter, weight in zip(network.parameters(), weights, strict=True):
            parameter.copy_(weight)
        noise, label = torch.tensor([-0.7, 12.5]), torch.tensor([2, 0])
        expected = edm(images(), noise, torch.eye(3)[label])
        assert relative_error(network(images(), noise, label), expected) < 1e-5


# Options --------------------------------------------------------------------------------------------------------------

OPTIONS = [
    {},
    {"conv_resample": False},
    {"resblock_updown": True, "use_scale_shift_norm": True},
    {"use_new_attention_order": True, "num_head_channels": 16},
    {"attention_resolutions": [1, 2], "num_heads_upsample": 4},
    {"attention_resolutions": [], "num_res_blocks": 2, "channel_mult": [1, 1, 2]},
    {"num_classes": 3},
    {"channel_mult": [2, 1]},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_every_option_runs_and_uses_every_parameter(options, awake):
    network = awake(ADM(**(SMALL | options)))
    label = torch.tensor([0, 2]) if "num_classes" in options else None
    out = network(images(), torch.tensor([3, 700]), label)
    assert out.shape == (2, 4, 8, 8)
    gradients = torch.autograd.grad(out.square().sum(), list(network.parameters()))
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


def test_names_of_the_resampling_layers():
    """Resampling by residual blocks, by convolutions, or without parameters."""
    names = set(ADM(**SMALL).state_dict())
    assert {"input_blocks.2.0.op.weight", "output_blocks.1.2.conv.weight"} <= names
    assert not {name for name in ADM(**SMALL, conv_resample=False).state_dict() if "op." in name or ".conv." in name}
    assert "input_blocks.2.0.in_layers.0.weight" in ADM(**SMALL, resblock_updown=True).state_dict()
    assert "label_emb.weight" in ADM(**SMALL, num_classes=3).state_dict()


def test_attention_orders_differ_by_a_permutation(awake, relative_error):
    old, heads = awake(ADM(**SMALL)), SMALL["num_heads"]
    new = ADM(**SMALL, use_new_attention_order=True).eval()
    state = old.state_dict()
    for name, value in state.items():
        if ".qkv." in name:
            state[name] = value.reshape(heads, 3, -1, *value.shape[1:]).transpose(0, 1).reshape(value.shape)
    new.load_state_dict(state)
    i = torch.tensor([3, 700])
    assert relative_error(new(images(), i), old(images(), i)) < 1e-5
    new.load_state_dict(old.state_dict())
    assert relative_error(new(images(), i), old(images(), i)) > 1e-3


def test_heads():
    def heads(**options: Any) -> list[int]:
        network = ADM(**(SMALL | options))
        return [layer.heads for layer in network.modules() if hasattr(layer, "heads")]

    assert heads() == [2, 2, 2, 2]
    assert heads(num_heads_upsample=4) == [2, 2, 4, 4]
    assert heads(num_head_channels=16, num_heads_upsample=1) == [4, 4, 4, 4]


def test_class_labels_as_numbers_and_one_hot(awake):
    network, i = awake(ADM(**SMALL, num_classes=3)), torch.tensor([3, 700])
    label = torch.tensor([2, 0])
    torch.testing.assert_close(network(images(), i, label), network(images(), i, torch.eye(3)[label]))
    torch.testing.assert_close(network(images(), i), network(images(), i, torch.zeros(2, 3)))
    assert (network(images(), i, label) - network(images(), i)).abs().max() > 1e-3


def test_integer_and_float_indices_and_one_for_all(awake):
    network = awake(ADM(**SMALL))
    torch.testing.assert_close(network(images(), torch.tensor([5, 5])), network(images(), torch.tensor(5.0)))


def test_edm_naming_leaves_attention_out_of_narrow_blocks(awake):
    """64 channels per head: a block of 32 has no head, hence no attention, at any level."""
    network = awake(EDMADM(8, 2, model_channels=32, channel_mult=[1, 2], num_blocks=1, attn_resolutions=[8, 4]))
    narrow = {name.split(".")[1] for name in network.state_dict() if "qkv" in name}
    assert narrow == {"4x4_block0", "4x4_in0", "4x4_block1"}
    assert network(images(), torch.zeros(2)).shape == (2, 2, 8, 8)


def test_twice_differentiable(awake):
    network = awake(ADM(**(SMALL | {"channel_mult": [1, 1]}), use_scale_shift_norm=True)).double()
    x = images(1).double().requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: network(x, torch.tensor([4])), x, fast_mode=True)


@pytest.mark.parametrize(
    "network", [ADM(**SMALL, num_classes=3), EDMADM(8, 2, model_channels=32, channel_mult=(1, 2), augment_dim=4)]
)
def test_config_rebuilds_the_network(network):
    rebuilt = type(network)(**network.config)
    rebuilt.load_state_dict(network.state_dict(), strict=True)
    assert rebuilt.config == network.config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 9}, "multiple of 2"),
        ({"model_channels": 48}, "multiples of 32; got 48"),
        ({"num_heads": 7}, "num_heads must divide the width 64 .*got 7"),
    ],
)
def test_sizes_that_do_not_fit(change, message):
    with pytest.raises(ValueError, match=message):
        ADM(**(SMALL | change))
    with pytest.raises(ValueError, match="without num_classes"):
        ADM(**SMALL)(images(), torch.tensor([1, 2]), torch.tensor([0, 1]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_head_channels": 48}, "num_head_channels.* must divide the width 32 .*got 48"),
        ({"num_head_channels": 24}, "num_head_channels.* must divide the width 32 .*got 24"),
        ({"num_head_channels": 0}, "num_head_channels must be an integer >= 1; got 0"),
        ({"num_heads": 5}, "num_heads must divide the width 32 .*got 5"),
        ({"num_heads": 0}, "num_heads must be an integer >= 1; got 0"),
        ({"num_heads_upsample": 3}, "num_heads must divide the width 32 .*got 3"),
    ],
)
def test_heads_that_do_not_divide_the_width(options, message):
    """At construction, not in the first forward pass."""
    plain = {"image_size": 8, "model_channels": 32, "num_res_blocks": 1, "channel_mult": [1], "num_heads": 1}
    with pytest.raises(ValueError, match=message):
        ADM(**{**plain, "attention_resolutions": [1], **options})


def test_edm_heads_that_do_not_divide_the_width():
    """EDM counts width // 64 heads: 3 do not divide 224 channels."""
    with pytest.raises(ValueError, match="multiple of its 3 heads; got 224"):
        EDMADM(8, model_channels=224, channel_mult=[1], num_blocks=1, attn_resolutions=[8])
