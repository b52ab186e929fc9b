"""DDPM++ / NCSN++ in EDM naming: parity, the published sizes, and every option."""

from typing import Any

import pytest
import torch
from torch import Tensor

from common.diffusion.networks.ddpmpp import DDPMpp

SMALL: dict[str, Any] = {
    "img_resolution": 8,
    "img_channels": 1,
    "model_channels": 8,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [4],
    "dropout": 0.0,
}


def body_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("model."): value for name, value in state.items()}


def test_parity_with_the_published_network(published, relative_error):
    reference = published("edm_ddpmpp_cond_small")
    options = {key: value for key, value in reference.config.items() if key not in ("sigma_data", "model_type")}
    network = DDPMpp(**options).eval()
    network.load_state_dict(body_state(reference.state), strict=True)
    x, sigma, labels = (reference.arrays[key] for key in ("x", "sigma", "class_labels"))
    sigma, s = sigma[:, None, None, None], 0.5
    total = sigma**2 + s**2
    with torch.no_grad():
        body = network(x / total.sqrt(), sigma.flatten().log() / 4, labels)
    denoised = s**2 / total * x + sigma * s / total.sqrt() * body
    assert relative_error(denoised, reference.arrays["denoised"]) < 5e-6


def test_parameters_come_in_the_published_order(published):
    reference = published("edm_ddpmpp_cond_small")
    options = {key: value for key, value in reference.config.items() if key not in ("sigma_data", "model_type")}
    with torch.device("meta"):
        network = DDPMpp(**options)
    assert [f"model.{name}" for name, _ in network.named_parameters()] == list(reference.spec["tensors"])


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        ({"label_dim": 10, "augment_dim": 9}, 55.74e6),  # DDPM++, conditional
        (
            {
                "augment_dim": 9,
                "embedding_type": "fourier",
                "channel_mult_noise": 2,
                "encoder_type": "residual",
                "resample_filter": [1, 3, 3, 1],
            },
            56.40e6,  # NCSN++, unconditional
        ),
    ],
)
def test_size_of_the_published_cifar10_networks(options, parameters):
    shape = {"model_channels": 128, "channel_mult": [2, 2, 2], "num_blocks": 4, "attn_resolutions": [16]}
    with torch.device("meta"):
        network = DDPMpp(32, 3, **shape, **options)
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(parameters, abs=5e3)


EVERY_KIND = [
    {"embedding_type": embedding, "encoder_type": encoder, "decoder_type": decoder, "resample_filter": taps}
    for embedding, taps in (("positional", [1, 1]), ("fourier", [1, 3, 3, 1]))
    for encoder in ("standard", "skip", "residual")
    for decoder in ("standard", "skip")
]


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_every_kind_runs_and_uses_every_parameter(kind, awake):
    network = awake(DDPMpp(**SMALL, label_dim=3, **kind))
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    out = network(x, torch.tensor([-1.0, 0.5]), torch.eye(3)[:2])
    assert out.shape == x.shape
    gradients = torch.autograd.grad(out.square().sum(), list(network.parameters()))
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


def test_skip_encoder_and_decoder_contain_the_standard_network(awake):
    """With the side path silenced, the network with it is the network without it."""
    x, c_noise = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([-1.0, 0.5])
    plain = awake(DDPMpp(**SMALL))
    for side in ({"encoder_type": "skip"}, {"decoder_type": "skip"}):
        network = awake(DDPMpp(**SMALL, **side), seed=5)
        network.load_state_dict(plain.state_dict(), strict=False)
        assert (network(x, c_noise) - plain(x, c_noise)).abs().max() > 1e-2
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if name not in plain.state_dict():
                    parameter.zero_() if "conv" in name or "skip" in name else None
        torch.testing.assert_close(network(x, c_noise), plain(x, c_noise), rtol=0, atol=1e-5)


def test_class_reaches_the_output_and_none_means_no_class(awake):
    network = awake(DDPMpp(**SMALL, label_dim=3))
    x, c_noise = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.zeros(3)
    no_class = network(x, c_noise)
    torch.testing.assert_close(network(x, c_noise, torch.zeros(3, 3)), no_class)
    assert (network(x, c_noise, torch.eye(3)) - no_class).abs().amax(dim=(1, 2, 3)).min() > 1e-3


def test_rows_are_independent_and_a_scalar_noise_level_is_shared(awake):
    network = awake(DDPMpp(**SMALL))
    x, c_noise = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([-1.0, 0.2, 0.7])
    together = network(x, c_noise)
    for row in range(3):
        torch.testing.assert_close(
            network(x[row : row + 1], c_noise[row]), together[row : row + 1], rtol=1e-5, atol=1e-5
        )


def test_twice_differentiable(awake):
    """Guidance takes a gradient inside the forward pass; an attack differentiates through it."""
    tiny = SMALL | {"model_channels": 4, "resample_filter": [1, 3, 3, 1]}
    network = awake(DDPMpp(**tiny)).double().requires_grad_(False)
    x = torch.randn(1, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    c_noise = torch.tensor([-0.3], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: network(x, c_noise), x, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x: network(x, c_noise), x, fast_mode=True)


def test_training_only_randomness(awake):
    network = awake(DDPMpp(**(SMALL | {"dropout": 0.5}), label_dim=3, label_dropout=0.5))
    x, c_noise = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.zeros(3)
    torch.testing.assert_close(network(x, c_noise, torch.eye(3)), network(x, c_noise, torch.eye(3)), rtol=0, atol=0)
    network.train()
    assert not torch.equal(network(x, c_noise, torch.eye(3)), network(x, c_noise, torch.eye(3)))


def test_config_rebuilds_the_network():
    network = DDPMpp(**SMALL, label_dim=3, encoder_type="residual")
    again = DDPMpp(**network.config)
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in network.state_dict().items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"img_resolution": 9}, "multiple of 2"),
        ({"channel_mult": []}, "channel_mult must be a list"),
        ({"model_channels": 6}, "multiple of 4"),
        ({"encoder_type": "other"}, "encoder_type must be one of standard, skip, residual; got 'other'"),
        ({"resample_filter": [1, 2, 1]}, "even in number"),
        ({"resample_filter": [1, 3, 2, 1]}, "symmetric"),
    ],
)
def test_sizes_that_do_not_fit(change, message):
    with pytest.raises(ValueError, match=message):
        DDPMpp(**(SMALL | change))


def test_labels_that_do_not_fit():
    x = torch.zeros(2, 1, 8, 8)
    with pytest.raises(ValueError, match="label_dim=0"):
        DDPMpp(**SMALL)(x, torch.zeros(2), torch.eye(2))
    with pytest.raises(ValueError, match="3 columns"):
        DDPMpp(**SMALL, label_dim=3)(x, torch.zeros(2), torch.eye(2))
