"""Denoisers of published options: noise levels, time labels and predictions; unsupported options are refused."""

import math

import pytest
import torch

from common.checkpoints.formats.bodies import build_body
from common.checkpoints.formats.options import flatten
from common.checkpoints.loading import load_denoiser, load_network
from common.checkpoints.saving import save
from common.diffusion.denoisers import EpsDenoiser, X0Denoiser
from common.diffusion.schedules import VP
from common.diffusion.score_denoiser import ScoreDenoiser

pytestmark = pytest.mark.filterwarnings("ignore:.*holds averaged weights")  # beside raw ones, as it is published

ADM = {"image_size": 8, "model_channels": 32, "out_channels": 6, "num_res_blocks": 1, "channel_mult": [1, 1],
       "attention_resolutions": [2], "num_heads": 2, "use_scale_shift_norm": True}  # fmt: skip
HO = {"image_size": 8, "ch": 32, "ch_mult": [1, 1], "num_res_blocks": 1, "attn_resolutions": [4]}
NCSN = {"nf": 8, "ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [4]}
VE = NCSN | {"embedding_type": "fourier", "progressive_input": "residual", "fir": True, "scale_by_sigma": True}


@pytest.fixture
def loaded(tmp_path, awake):
    """``loaded(format, config)`` -> (denoiser, the published network, time labels that the network received)."""

    def make(format, config):
        with torch.device("cpu"):
            body = build_body(format, flatten(config)).to_empty(device="cpu")
        state = awake(body).state_dict()
        path = tmp_path / "published.pt"
        if format == "score_sde":
            trained = [p.detach() for p in body.parameters() if p.requires_grad]
            torch.save({"ema": {"shadow_params": trained}, "model": {f"module.{k}": v for k, v in state.items()}}, path)
        else:
            torch.save(state, path)
        denoiser = load_denoiser(path, format, config)
        labels = []
        denoiser.network.register_forward_pre_hook(lambda _, arguments: labels.append(arguments[1]))
        return denoiser, load_network(path, format, config), labels

    return make


def images(sigma):
    noise = torch.randn(len(sigma), 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return (1 + sigma.view(-1, 1, 1, 1) ** 2).sqrt() * noise


def linear(steps, start, end):
    """sigma_i by the plain product."""
    abar, sigmas = 1.0, []
    for i in range(steps):
        abar *= 1 - (start + i * (end - start) / (steps - 1))
        sigmas.append(math.sqrt(1 / abar - 1))
    return sigmas


def cosine(steps):
    f = [math.cos((i / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(steps + 1)]
    return [math.sqrt(f[0] / value - 1) for value in f[1:-1]]


def quad(steps, start, end):
    roots = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64)
    return (1 / (1 - roots**2).cumprod(0) - 1).sqrt().tolist()


LEVELS = [
    ("guided_diffusion", ADM, {}, linear(1000, 1e-4, 0.02), 1),
    ("guided_diffusion", ADM, {"noise_schedule": "cosine", "rescale_timesteps": True}, cosine(1000), 1),
    ("guided_diffusion", ADM, {"noise_schedule": "cosine", "diffusion_steps": 4000, "rescale_timesteps": True,
                               "timestep_respacing": "250", "sigma_small": True}, cosine(4000), 0.25),
    ("guided_diffusion", ADM, {"diffusion_steps": 4000, "rescale_timesteps": False}, linear(4000, 25e-6, 0.005), 1),
    ("guided_diffusion", ADM, {"diffusion_steps": 500, "rescale_timesteps": True}, linear(500, 2e-4, 0.04), 2),
    ("sdedit_ddpm", HO, {}, linear(1000, 1e-4, 0.02), 1),
    ("sdedit_ddpm", HO, {"num_diffusion_timesteps": 100, "beta_end": 0.1}, linear(100, 1e-4, 0.1), 1),
    ("sdedit_ddpm", HO, {"beta_schedule": "quad", "beta_start": 1e-3}, quad(1000, 1e-3, 0.02), 1),
    ("score_sde", {"image_size": 8, **NCSN}, {"continuous": False}, linear(1000, 1e-4, 0.02), 1),
    ("score_sde", {"image_size": 8, **NCSN}, {"training": {"sde": "vpsde", "continuous": False}, "num_scales": 200,
                                              "beta_max": 10.0}, linear(200, 5e-4, 0.05), 1),
]  # fmt: skip


@pytest.mark.parametrize(("format", "config", "extra", "sigmas", "factor"), LEVELS)
def test_discrete_noise_levels_and_their_time_labels(format, config, extra, sigmas, factor, loaded):
    """D = x - sigma eps(x / sqrt(1 + sigma^2), label) at every trained sigma of every beta schedule."""
    denoiser, network, labels = loaded(format, config | extra)
    index = torch.tensor([0, 1, len(sigmas) // 2, len(sigmas) - 2])
    sigma = torch.tensor(sigmas, dtype=torch.float64)[index].float()
    x, level = images(sigma), sigma.view(-1, 1, 1, 1)
    with torch.no_grad():
        label = index if factor == 1 else factor * index.float()
        eps = network(x / (1 + level**2).sqrt(), label)[:, :3]
        torch.testing.assert_close(denoiser(x, sigma), x - level * eps, rtol=1e-5, atol=1e-5 * float(sigma.max()))
    assert torch.equal(labels[0], label) and labels[0].dtype == label.dtype
    assert denoiser.sigma_min == pytest.approx(sigmas[0], rel=1e-6)


@pytest.mark.parametrize(
    "extra", [{}, {"diffusion_steps": 4000, "noise_schedule": "cosine", "rescale_timesteps": True}]
)
def test_a_network_that_predicts_the_image(extra, loaded):
    denoiser, network, labels = loaded("guided_diffusion", ADM | {"predict_xstart": True} | extra)
    assert isinstance(denoiser, X0Denoiser)
    sigma = torch.tensor([0.3, 2.0])
    x = images(sigma)
    with torch.no_grad():
        expected = network(x / (1 + sigma.view(-1, 1, 1, 1) ** 2).sqrt(), (time_label := denoiser.time_label(sigma)))
        torch.testing.assert_close(denoiser(x, sigma), expected[:, :3])
    assert torch.equal(labels[0], time_label)


@pytest.mark.parametrize("scales", [1000, 2000])
def test_continuous_time_is_999_t_for_any_number_of_scales(scales, loaded):
    config = {"data": {"image_size": 8, "centered": True}, "model": NCSN | {"num_scales": scales}, "optim": {"lr": 1}}
    denoiser, _, labels = loaded("score_sde", config | {"training": {"sde": "VPSDE", "continuous": True, "n_iters": 7}})
    assert isinstance(denoiser, EpsDenoiser)
    t = torch.tensor([0.1, 0.5])
    denoiser(images(t), VP().sigma(t.double()).float())
    torch.testing.assert_close(labels[0], 999 * t, rtol=1e-5, atol=0)


# Exploding variance ---------------------------------------------------------------------------------------------------


def ve(model, centered, **training):
    return {"data": {"image_size": 8, "centered": centered}, "model": model, "training": {"sde": "vesde", **training}}


@pytest.mark.parametrize("centered", [True, False])
def test_fourier_embedded_networks_receive_sigma(centered, loaded):
    """NCSN++ with residual input: D = x + sigma^2 s(x, sigma) in the network's own frame."""
    denoiser, network, labels = loaded("score_sde", ve(VE | {"sigma_max": 348}, centered, continuous=True))
    assert isinstance(denoiser, ScoreDenoiser)
    width = 1 if centered else 2
    assert (denoiser.sigma_min, denoiser.sigma_max) == (0.01 * width, 348 * width)
    own = torch.tensor([0.02, 0.5, 40.0])
    x = images(own)
    with torch.no_grad():
        expected = x + own.view(-1, 1, 1, 1) ** 2 * network(x, own)
        denoised = denoiser(width * x - (width - 1), width * own)
    torch.testing.assert_close(denoised, width * expected - (width - 1), rtol=1e-4, atol=1e-5 * 40)
    torch.testing.assert_close(labels[0], own)


def test_positional_networks_receive_the_index(loaded):
    """Discrete levels count downwards: index 0 is the largest sigma."""
    model = NCSN | {"scale_by_sigma": True, "num_scales": 500}
    denoiser, network, labels = loaded("score_sde", ve(model, False, continuous=False))
    index = torch.tensor([499, 321, 0])
    own = network.sigmas[index]
    assert float(own[2]) == pytest.approx(50) and float(own[0]) == pytest.approx(0.01)
    x = images(own)
    with torch.no_grad():
        expected = x + own.view(-1, 1, 1, 1) ** 2 * network(x, index)
        denoised = denoiser(2 * x - 1, 2 * own)
    torch.testing.assert_close(denoised, 2 * expected - 1, rtol=1e-4, atol=1e-5 * 50)
    assert torch.equal(labels[0], index)


def test_a_score_denoiser_survives_our_format(loaded, tmp_path):
    denoiser, network, _ = loaded("score_sde", ve(VE, False, continuous=True))
    path = save(denoiser, tmp_path / "ve.safetensors")
    x, sigma = images(torch.ones(2)), torch.tensor([0.4, 5.0])
    with torch.no_grad():
        assert torch.equal(load_denoiser(path)(x, sigma), denoiser(x, sigma))
        assert torch.equal(load_network(path)(x, sigma), network(x, sigma))


# Refusals -----------------------------------------------------------------------------------------------------------

SDE = {"data": {"image_size": 8, "centered": True}, "model": NCSN}


@pytest.mark.parametrize(
    ("format", "config", "message"),
    [
        ("guided_diffusion", ADM | {"noise_schedule": "sqrt"}, "noise schedules linear, cosine; got 'sqrt'"),
        ("guided_diffusion", ADM | {"diffusion_steps": 4000}, "must state rescale_timesteps; it does not"),
        ("sdedit_ddpm", HO | {"beta_schedule": "jsd"}, "noise schedules linear, quad; got 'jsd'"),
        ("score_sde", SDE | {"training": {"sde": "subvpsde"}}, "vpsde or vesde; got 'subvpsde'"),
        ("score_sde", SDE | {"data": {"image_size": 8, "centered": False}}, "vpsde needs data.centered true"),
        ("score_sde", SDE | {"data": {"image_size": 8}, "training": {"sde": "vesde"}}, "must state data.centered"),
        ("score_sde", {"image_size": 8, **VE}, "must state data.centered"),
        ("score_sde", ve(NCSN, False, continuous=True), "got positional with continuous: true"),
        ("score_sde", ve(VE, False, continuous=False), "got fourier with continuous: false"),
    ],
)
def test_unsupported_options_are_refused(format, config, message, loaded):
    """The message is one line."""
    with pytest.raises(ValueError, match=message) as error:
        loaded(format, config)
    assert "\n" not in str(error.value)
    assert "load_network loads the network alone" in str(error.value) or "does not" in str(error.value)
