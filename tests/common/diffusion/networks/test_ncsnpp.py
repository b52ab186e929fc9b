"""NCSN++ in Score-SDE naming: parity, the published size and layout, equality with EDM naming, and every option."""

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from common.diffusion.networks import DDPMpp, NCSNpp
from common.diffusion.networks.ncsnpp import Attention, Combine, Resample, ResBlock

NOT_THE_BODY = {"beta_min", "beta_max", "name", "ema_rate", "normalization", "attention_type", "conv_size"}

SMALL: dict[str, Any] = {
    "image_size": 8,
    "num_channels": 2,
    "nf": 8,
    "ch_mult": [1, 2],
    "num_res_blocks": 1,
    "attn_resolutions": [4],
    "dropout": 0.0,
}


def body(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in NOT_THE_BODY}


def images(rows: int = 2) -> Tensor:
    return torch.randn(rows, 2, 8, 8, generator=torch.Generator().manual_seed(1))


def test_parity_with_the_published_network(published, relative_error):
    reference = published("score_sde_small")
    network = NCSNpp(**body(reference.config)).eval()
    torch.testing.assert_close(network.sigmas, reference.state["sigmas"], rtol=1e-6, atol=0)
    network.load_state_dict(reference.state, strict=True)
    with torch.no_grad():
        eps = network(reference.arrays["x"], 999 * reference.arrays["t"])
    assert relative_error(eps, reference.arrays["eps"]) < 5e-6


def test_parameters_come_in_the_published_order(published):
    """The moving average in Score-SDE files is a list in this order."""
    reference = published("score_sde_small")
    with torch.device("meta"):
        network = NCSNpp(**body(reference.config))
    assert [name for name, _ in network.named_parameters()] == list(reference.spec["tensors"])


def test_published_cifar10_network():
    with torch.device("meta"):
        network = NCSNpp()
    assert sum(p.numel() for p in network.parameters()) == 106_632_579
    assert len(list(network.parameters())) == 956
    kinds = [type(layer) for layer in network.all_modules]
    assert len(kinds) == 91
    assert kinds.count(ResBlock) == 76
    assert [i for i, kind in enumerate(kinds) if kind is Attention] == [13, 15, 17, 19, 21, 23, 25, 27, 47, 78]


# The same network under both namings ----------------------------------------------------------------------------------


def in_score_sde_naming(network: DDPMpp) -> list[Tensor]:
    """Weights of an EDM-named network in the order in which Score-SDE numbers them."""
    out: list[Tensor] = [] if network.map_noise is None else [network.map_noise.freqs]
    for layer in (network.map_layer0, network.map_layer1):
        out += [layer.weight, layer.bias]
    for layer in (*network.enc.values(), *network.dec.values()):
        if not hasattr(layer, "norm0"):
            out += [p for name, p in layer.named_parameters() if name in ("weight", "bias")]
            continue
        for part in (layer.norm0, layer.conv0, layer.affine, layer.norm1, layer.conv1, layer.skip):
            out += [] if part is None else [part.weight, part.bias]
        if layer.heads:
            out += [layer.norm2.weight, layer.norm2.bias]
            for j in range(3):
                out += [layer.qkv.weight[j::3, :, 0, 0].t(), layer.qkv.bias[j::3]]
            out += [layer.proj.weight[:, :, 0, 0].t(), layer.proj.bias]
    return out


ENCODERS = {"standard": "none", "skip": "input_skip", "residual": "residual"}
DECODERS = {"standard": "none", "skip": "output_skip"}


@pytest.mark.parametrize(
    ("embedding", "encoder", "decoder"), list(product(("positional", "fourier"), ENCODERS, DECODERS))
)
def test_both_namings_are_one_network(embedding, encoder, decoder, awake, relative_error):
    fourier = embedding == "fourier"
    edm = awake(
        DDPMpp(
            8,
            2,
            model_channels=8,
            channel_mult=[1, 2, 2],  # the second way down reuses the pyramid of the first
            num_blocks=2,
            attn_resolutions=[4],
            embedding_type=embedding,
            channel_mult_noise=1 + fourier,
            encoder_type=encoder,
            decoder_type=decoder,
            resample_filter=[1, 3, 3, 1],
        )
    )
    network = NCSNpp(
        **(SMALL | {"num_res_blocks": 2, "ch_mult": [1, 2, 2]}),
        fir=True,
        embedding_type=embedding,
        progressive_input=ENCODERS[encoder],
        progressive=DECODERS[decoder],
    ).eval()
    weights = in_score_sde_naming(edm)
    assert len(weights) == len(list(network.parameters()))
    with torch.no_grad():
        for parameter, weight in zip(network.parameters(), weights, strict=True):
            parameter.copy_(weight)
        c_noise = torch.tensor([-0.7, 0.4])
        expected = edm(images(), c_noise)
        assert relative_error(network(images(), c_noise.exp() if fourier else c_noise), expected) < 1e-5


# Options that only Score-SDE has --------------------------------------------------------------------------------------

OPTIONS = [
    {"resblock_type": "ddpm"},
    {"resblock_type": "ddpm", "resamp_with_conv": False, "skip_rescale": False},
    {"resblock_type": "ddpm", "fir": True, "progressive": "residual", "progressive_input": "residual"},
    {"progressive": "residual"},
    {"progressive": "output_skip", "progressive_input": "input_skip", "progressive_combine": "cat"},
    {"progressive_input": "residual", "embedding_type": "fourier", "fir": True, "skip_rescale": False},
    {"nonlinearity": "elu", "scale_by_sigma": True, "embedding_type": "fourier"},
    {"nonlinearity": "relu"},
    {"nonlinearity": "lrelu", "attn_resolutions": []},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_every_option_runs_and_uses_every_parameter(options, awake):
    network = awake(NCSNpp(**(SMALL | options)))
    out = network(images(), torch.tensor([0.3, 0.8]))
    assert out.shape == (2, 2, 8, 8)
    trained = [p for p in network.parameters() if p.requires_grad]
    assert all(gradient.abs().sum() > 0 for gradient in torch.autograd.grad(out.square().sum(), trained))


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"resblock_type": "ddpm"}, {"Conv_0.weight", "Conv_0.bias"}),
        ({"resblock_type": "ddpm", "fir": True}, {"Conv2d_0.weight", "Conv2d_0.bias"}),
        ({"resblock_type": "ddpm", "resamp_with_conv": False}, set()),
        ({"progressive_input": "residual"}, {"Conv_0.weight", "Conv_0.bias"}),
        ({"progressive": "residual", "fir": True}, {"Conv2d_0.weight", "Conv2d_0.bias"}),
        ({}, None),
    ],
)
def test_names_of_the_resampling_layers(options, names):
    layers = [layer for layer in NCSNpp(**SMALL, **options).all_modules if isinstance(layer, Resample)]
    assert [set(layer.state_dict()) for layer in layers] == ([] if names is None else [names] * len(layers))
    assert bool(layers) == (names is not None)


def test_shortcuts_of_both_kinds_of_block():
    def shortcuts(kind: str) -> set[str]:
        blocks = [m for m in NCSNpp(**SMALL, resblock_type=kind).all_modules if isinstance(m, ResBlock)]
        return {name for block in blocks for name in block.state_dict() if name.startswith(("NIN", "Conv_2"))}

    assert shortcuts("biggan") == {"Conv_2.weight", "Conv_2.bias"}
    assert shortcuts("ddpm") == {"NIN_0.W", "NIN_0.b"}


def test_the_input_pyramid_is_concatenated_first():
    """Order of the channels is part of the format: first the pyramid's, then the features."""
    combine = Combine(2, 3, "cat")
    torch.nn.init.constant_(combine.Conv_0.weight, 1.0)
    torch.nn.init.zeros_(combine.Conv_0.bias)
    out = combine(torch.ones(1, 2, 4, 4), torch.full((1, 3, 4, 4), 7.0))
    assert out[0, :, 0, 0].tolist() == [2, 2, 2, 7, 7, 7]


def test_a_network_without_noise_level(awake):
    network = awake(NCSNpp(**SMALL, conditional=False))
    torch.testing.assert_close(network(images(), torch.tensor([1.0, 2.0])), network(images(), torch.tensor([3.0, 4.0])))


def test_scale_by_sigma_and_centred(awake):
    plain, label = awake(NCSNpp(**SMALL)), torch.tensor([10.0, 700.0])
    for options, expected in (
        ({"scale_by_sigma": True}, plain(images(), label) / plain.sigmas[label.long()][:, None, None, None]),
        ({"centered": False}, plain(2 * images() - 1, label)),
    ):
        network = NCSNpp(**SMALL, **options).eval()
        network.load_state_dict(plain.state_dict())
        torch.testing.assert_close(network(images(), label), expected)
    assert plain.sigmas[0] == pytest.approx(50)
    assert plain.sigmas[-1] == pytest.approx(0.01)
    assert plain.sigmas[500] == pytest.approx(50 * (0.01 / 50) ** (500 / 999), rel=1e-5)


def test_without_rescaling_sums_are_sums(awake):
    """With silent branches a block returns its shortcut, divided by sqrt(2) or not."""
    x = torch.randn(1, 8, 4, 4, generator=torch.Generator().manual_seed(1))
    for scale in (1.0, 0.5**0.5):
        attention = awake(Attention(8, scale))
        torch.nn.init.zeros_(attention.NIN_3.W)
        torch.nn.init.zeros_(attention.NIN_3.b)
        torch.testing.assert_close(attention(x), x * scale)


def test_twice_differentiable(awake):
    network = awake(NCSNpp(**(SMALL | {"nf": 4}), fir=True, progressive_input="residual")).double()
    x = images(1).double().requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: network(x, torch.tensor([3.5])), x, fast_mode=True)


def test_config_rebuilds_the_network():
    network = NCSNpp(**SMALL, embedding_type="fourier", fir_kernel=(1, 1))
    rebuilt = NCSNpp(**network.config)
    rebuilt.load_state_dict(network.state_dict(), strict=True)
    assert rebuilt.config == network.config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 9}, "multiple of 2"),
        ({"progressive": "yes"}, "progressive must be one of none, output_skip, residual; got 'yes'"),
        ({"nonlinearity": "tanh"}, "nonlinearity must be one of"),
        ({"resblock_type": "resnet"}, "resblock_type must be one of biggan, ddpm"),
    ],
)
def test_sizes_that_do_not_fit(change, message):
    with pytest.raises(ValueError, match=message):
        NCSNpp(**(SMALL | change))
