"""A network on blocks of pixels: invertible rearrangement, unchanged conditions, description in a checkpoint."""

import pytest
import torch
from torch import nn

from common.checkpoints.loading import load_denoiser
from common.checkpoints.saving import save
from common.diffusion.denoisers import EDMDenoiser
from common.diffusion.networks import Blocked, DDPMpp


class Recording(nn.Module):
    """The identity; keeps the shape of its input and its conditions."""

    def forward(self, x, *conditions):
        self.received = (x.shape, conditions)
        return x


def test_pixels_keep_their_positions():
    inner = Recording()
    x, level = torch.rand(2, 3, 8, 8), torch.ones(2)
    assert torch.equal(Blocked(inner)(x, level, None), x)
    shape, conditions = inner.received
    assert shape == (2, 12, 4, 4)
    assert conditions[0] is level and conditions[1] is None


def test_a_denoiser_of_blocks_is_saved_and_loaded(tmp_path):
    body = DDPMpp(
        img_resolution=4, img_channels=12, label_dim=10, model_channels=8, channel_mult=[1, 1], num_blocks=1,
        attn_resolutions=[], dropout=0.0,
    )  # fmt: skip
    denoiser = EDMDenoiser(Blocked(body), num_classes=10).eval()
    loaded = load_denoiser(save(denoiser, tmp_path / "blocked.safetensors"))
    x, sigma, label = torch.randn(3, 3, 8, 8), torch.tensor([0.1, 1.0, 3.0]), torch.tensor([-1, 0, 9])
    assert torch.equal(loaded(x, sigma, label), denoiser(x, sigma, label))


def test_blocks_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"block.* must be an integer >= 1"):
        Blocked(Recording(), block=0)
    with pytest.raises(ValueError, match="multiples of the block, 3"):
        Blocked(Recording(), block=3)(torch.rand(1, 3, 8, 8))
