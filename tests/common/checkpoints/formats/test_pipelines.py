"""Pipelines of diffusers: denoisers equal the predictions of their own network and scheduler."""

import json
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from common.checkpoints.files import file_sha256
from common.checkpoints.loading import load_denoiser, load_network
from common.commands.conversion import convert
from common.diffusion.networks import UNet2D
from diffpure.purifier import DiffPure


def test_without_the_library_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ValueError, match=r"robust-diffusion\[diffusers\]"):
        load_denoiser(tmp_path, "diffusers")


@pytest.fixture(params=["pipeline", "flat"])
def folder(request, tmp_path):
    """A tiny random pipeline on the disk, in both layouts of the hub."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=8, block_out_channels=(16, 16), norm_num_groups=4, layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    scheduler = diffusers.DDPMScheduler(num_train_timesteps=1000)
    nested = request.param == "pipeline"
    unet.save_pretrained(tmp_path / "unet" if nested else tmp_path)
    scheduler.save_pretrained(tmp_path / "scheduler" if nested else tmp_path)
    return tmp_path


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("betas", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_the_denoiser_is_the_schedulers_own_prediction(folder, betas, prediction):
    """diffusers' step gives pred_original_sample; on the grid that is D(x, sigma)."""
    diffusers = pytest.importorskip("diffusers")
    steps = 1000 if betas == "linear" else 400
    options = {"num_train_timesteps": steps, "beta_schedule": betas, "prediction_type": prediction}
    scheduler = diffusers.DDPMScheduler(clip_sample=False, **options)
    scheduler.save_pretrained(next(folder.rglob("scheduler_config.json")).parent)
    denoiser, network = load_denoiser(folder, "diffusers"), load_network(folder, "diffusers")
    for i in (0, 70, steps - 2):
        abar = scheduler.alphas_cumprod[i]
        xt = torch.randn(2, 3, 8, 8)
        with torch.no_grad():
            predicted = network(sample=xt, timestep=torch.tensor([i, i]))
            expected = scheduler.step(predicted, i, xt).pred_original_sample
            sigma = (1 / abar.double() - 1).sqrt().float()
            denoised = denoiser(xt / abar.sqrt(), sigma.expand(2))
        # float32: their 1 - abar loses digits at the small levels, our x - sigma eps at the large ones
        torch.testing.assert_close(denoised, expected, rtol=1e-3, atol=1e-3 + 1e-5 * float(sigma))


def test_a_pipeline_becomes_a_file_of_ours(folder, tmp_path):
    """The converted file gives the same bits as denoiser and as network."""
    target = convert(folder, tmp_path / "ours.safetensors", "diffusers")
    x, sigma = torch.randn(2, 3, 8, 8), torch.tensor([0.3, 2.0])
    with torch.no_grad():
        assert torch.equal(load_denoiser(target)(x, sigma), load_denoiser(folder, "diffusers")(x, sigma))
        index = torch.tensor([3, 700])
        assert torch.equal(load_network(target)(x, index), load_network(folder, "diffusers")(x, index))
    with safe_open(target, framework="pt") as file:
        notes = json.loads(file.metadata()["robust_diffusion"])["notes"]
    assert notes["converted_from"] == "diffusers"
    assert notes["sha256"] == file_sha256(next(folder.rglob("diffusion_pytorch_model.safetensors")))
    network = convert(folder, tmp_path / "network.safetensors", "diffusers", kind="network")
    assert load_network(network).state_dict().keys() == load_network(target).state_dict().keys()


def test_it_purifies_with_a_gradient(folder):
    purifier = DiffPure(load_denoiser(folder, "diffusers"), t_star=0.05, steps=2, t_end=1e-3)
    image = torch.rand(2, 3, 8, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(purifier(image).square().sum(), image)
    assert gradient.abs().max() > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beta_schedule": "sigmoid"}, "'linear', 'scaled_linear', 'squaredcos_cap_v2'.*has beta_schedule 'sigmoid'"),
        ({"beta_schedule": None, "sigma_max": 348}, "has beta_schedule None"),
        ({"trained_betas": [0.1, 0.2]}, "and trained_betas"),
        ({"rescale_betas_zero_snr": True}, "and rescale_betas_zero_snr"),
        ({"prediction_type": "flow"}, "prediction_type 'flow'"),
    ],
)
def test_schedulers_that_are_not_tables_of_beta(folder, change, message):
    path = next(folder.rglob("scheduler_config.json"))
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=message) as error:
        load_denoiser(folder, "diffusers")
    assert "\n" not in str(error.value)
    load_network(folder, "diffusers")


def test_what_is_no_pipeline_is_refused(folder, tmp_path):
    for path in (tmp_path / "nowhere", "a/b/c"):
        with pytest.raises(FileNotFoundError, match="there is no folder"):
            load_denoiser(path, "diffusers")
        with pytest.raises(FileNotFoundError, match="there is no folder"):
            convert(path, tmp_path / "ours.safetensors", "diffusers")
    with pytest.raises(ValueError, match="carry their config"):
        load_denoiser(folder, "diffusers", {"sample_size": 8})
    weights = next(folder.rglob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1])
    (tmp_path / "empty").mkdir()
    for path in (folder, tmp_path / "empty"):
        with pytest.raises(ValueError, match="must be the folder of a diffusers UNet2DModel") as error:
            load_network(path, "diffusers")
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"must hold a scheduler_config\.json"):
        load_denoiser(tmp_path / "empty", "diffusers")


def test_weights_that_are_not_finite(folder):
    path = next(folder.rglob("*.safetensors"))
    state = load_file(path)
    state["conv_in.bias"][0] = float("nan")
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"NaN or infinity came in unet\.conv_in\.bias"):
        load_network(folder, "diffusers")


def test_options_that_describe_no_unconditional_network():
    pytest.importorskip("diffusers")
    with pytest.raises(ValueError, match="must be unconditional"):
        UNet2D({"num_class_embeds": 10})
    with pytest.raises(ValueError, match="describe no UNet2DModel"):
        UNet2D({"blocks": 10})
