"""Image grids of a training: rows of the tasks, when they are logged, and loggers that take none."""

import math

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, Logger
from torch import nn

from agdm.networks import GuidanceNetwork
from agdm.objective import Trades
from agdm.task import GuidanceTask
from common.data.digits import Digits
from common.diffusion.denoisers import Denoiser
from common.robustness.threats.norm_ball import ThreatModel
from common.tasks.denoiser import DenoiserTask
from common.tasks.logged_images import IMAGES, NAME, ImageGrids, image_grid
from common.units import to_model


class Halves(Denoiser):
    """D(x, σ) = w x, with w = 1/2."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))

    def forward(self, x, sigma, label=None):
        return self.weight * x


class Kept(Logger):
    """A logger whose experiment keeps images, as TensorBoard's writer does."""

    name, version = "kept", 0

    def __init__(self) -> None:
        super().__init__()
        self.images: list[tuple[str, torch.Tensor, int]] = []

    @property
    def experiment(self):
        return self

    def add_image(self, name, grid, step):
        self.images.append((name, grid, step))

    def log_metrics(self, metrics, step=None):
        pass

    def log_hyperparams(self, *arguments, **options):
        pass


@pytest.fixture
def batch():
    image = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return image, torch.tensor([0, 1, 2]), torch.tensor([4, 5, 6])


def test_rows_of_a_denoiser_are_clean_noisy_and_denoised_at_three_levels(batch):
    """Noise of the stated levels, the same for all three; D = x / 2 maps pixels p to p / 2 + 1 / 4."""
    rows = DenoiserTask(Halves(), p_mean=-1.0, p_std=0.5).image_rows(batch)
    assert rows.shape == (7, 3, 1, 8, 8)
    assert torch.equal(rows[0], batch[0])
    sigmas = [math.exp(-1.0 + 0.5 * k) for k in (-1, 0, 1)]
    noises = [(to_model(rows[i]) - to_model(batch[0])) / s for i, s in zip((1, 3, 5), sigmas, strict=True)]
    assert all(torch.allclose(noise, noises[0], atol=1e-5) for noise in noises)
    assert 0.8 < float(noises[0].std()) < 1.2  # 192 draws: a standard error of 0.05
    for i in (1, 3, 5):
        assert torch.allclose(rows[i + 1], rows[i] / 2 + 0.25, atol=1e-6)
    assert torch.equal(rows, DenoiserTask(Halves(), p_mean=-1.0, p_std=0.5).image_rows(batch))


@pytest.mark.parametrize("val_steps", [0, 2])
def test_rows_of_guidance_are_clean_and_diffused_with_their_attacks(batch, val_steps):
    torch.manual_seed(0)
    threat = ThreatModel(norm="inf", eps=0.1)
    task = GuidanceTask(GuidanceNetwork(in_channels=1, num_classes=10, width=8), Trades(threat), val_steps=val_steps)
    rows = task.eval().image_rows(batch)
    assert rows.shape[0] == (4 if val_steps else 2)
    assert torch.allclose(rows[0], batch[0], atol=1e-6)
    if val_steps:
        assert 0.05 < float((rows[1] - rows[0]).abs().max()) <= 0.1 + 1e-6
        assert 0.05 < float((rows[3] - rows[2]).abs().max()) <= 0.1 + 1e-5  # the same noise on both
    sigma = task.views["diffused"].sigma
    assert 0.7 * sigma < float((to_model(rows[-2 if val_steps else -1]) - to_model(rows[0])).std()) < 1.3 * sigma


def test_a_grid_is_one_image(batch):
    grid = image_grid(torch.stack([batch[0] * 3 - 1, batch[0]]))
    assert grid.shape == (3, 2 * 8 + 3 * 2, 3 * 8 + 4 * 2)
    assert grid.min() == 0 and grid.max() == 1


def fit(logger, tmp_path, **options):
    L.Trainer(max_epochs=2, limit_train_batches=1, limit_val_batches=2, logger=logger, callbacks=[ImageGrids()],
        accelerator="cpu", enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        default_root_dir=tmp_path, **options).fit(DenoiserTask(Halves()), Digits(batch_size=16))  # fmt: skip


def test_every_validation_logs_one_grid_of_the_same_images(tmp_path):
    logger = Kept()
    fit(logger, tmp_path)
    assert [(name, step) for name, _, step in logger.images] == [(NAME, 1), (NAME, 2)]
    first, second = (grid for _, grid, _ in logger.images)
    assert first.shape == (3, 7 * 8 + 8 * 2, IMAGES * 8 + (IMAGES + 1) * 2)
    assert torch.equal(first[:, :10], second[:, :10])  # clean images
    assert not torch.equal(first, second)  # the denoiser has changed


def test_other_loggers_take_none(tmp_path):
    fit(CSVLogger(tmp_path), tmp_path)
    assert list(tmp_path.rglob("metrics.csv"))
