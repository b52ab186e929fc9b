"""Pipelines of diffusers: their own network and scheduler say what the denoiser must be."""

import json
import sys

import pytest
import torch

from common.checkpoints import load_denoiser, load_network
from diffpure.purifier import DiffPure


def test_without_the_library_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ValueError, match=r"robust-diffusion\[diffusers\]"):
        load_denoiser(tmp_path, "diffusers")


@pytest.fixture(params=["pipeline", "flat"])
def folder(request, tmp_path):
    """A tiny random pipeline on the disk, in either of the two layouts that hubs have."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=8, block_out_channels=(16, 16), norm_num_groups=4, layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    scheduler = diffusers.DDPMScheduler(num_train_timesteps=1000)
    nested = request.param == "pipeline"
    unet.save_pretrained(tmp_path / "unet" if nested else tmp_path)
    scheduler.save_pretrained(tmp_path / "scheduler" if nested else tmp_path)
    return tmp_path


def test_the_denoiser_is_the_schedulers_own_prediction(folder):
    """diffusers' step gives pred_original_sample; on the grid that is D(x, sigma)."""
    diffusers = pytest.importorskip("diffusers")
    denoiser, network = load_denoiser(folder, "diffusers"), load_network(folder, "diffusers")
    scheduler = diffusers.DDPMScheduler(num_train_timesteps=1000, clip_sample=False)
    for i in (0, 70, 999):
        abar = scheduler.alphas_cumprod[i]
        xt = torch.randn(2, 3, 8, 8)
        with torch.no_grad():
            eps = network(xt, torch.tensor([i, i]))
            expected = scheduler.step(eps, i, xt).pred_original_sample
            sigma = (1 / abar - 1).sqrt()
            found = denoiser(xt / abar.sqrt(), sigma.expand(2))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(sigma))


def test_it_purifies_with_a_gradient(folder):
    purifier = DiffPure(load_denoiser(folder, "diffusers"), t_star=0.05, steps=2, t_end=1e-3)
    image = torch.rand(2, 3, 8, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(purifier(image).square().sum(), image)
    assert gradient.abs().max() > 0


def test_what_it_cannot_be_is_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="must be the folder"):
        load_network(tmp_path / "nowhere", "diffusers")
    path = next(folder.rglob("scheduler_config.json"))
    path.write_text(json.dumps({**json.loads(path.read_text()), "beta_schedule": "squaredcos_cap_v2"}))
    with pytest.raises(ValueError, match="linear in beta"):
        load_denoiser(folder, "diffusers")
