"""Steps of a reverse process: each has noise of its own, independent of the others and of the forward diffusion."""

import pytest
import torch

from common.diffusion.purifiers import DiffusionPurifier
from common.diffusion.reverse_process import Sampler
from common.diffusion.schedules import DDPM, VP
from common.diffusion.solvers import DDIM, Ancestral, EulerMaruyama
from common.diffusion.time_grids import TimeGrid
from common.noise import Noise

NOISE = Noise.of(5, torch.arange(40))
STEPS = 9


def largest_correlation(normals: list[torch.Tensor]) -> float:
    """Largest correlation of two of the tensors, in standard errors."""
    rows = torch.stack([one.flatten() for one in normals]).double()
    matrix = torch.corrcoef(rows) - torch.eye(len(rows), dtype=torch.float64)
    return float(matrix.abs().max()) * rows.shape[1] ** 0.5


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("solver", [EulerMaruyama(), Ancestral(), DDIM(0.5)], ids=lambda s: type(s).__name__)
def test_the_noise_of_all_steps_is_independent(solver, kept, monkeypatch):
    """Of 36 pairs none above five standard errors: by chance once in 50,000 seeds."""
    if not kept:
        monkeypatch.setattr("common.diffusion.steps._DRAWN_AT_ONCE", 0)
    sampler = Sampler(VP(), solver, TimeGrid.uniform(0.3, steps=STEPS))
    steps = sampler.steps(NOISE, torch.zeros(40, 1, 8, 8))
    assert largest_correlation([step.z for step in steps]) < 5
    assert [step.k for step in steps] == list(range(1, STEPS + 1))


class Zero(torch.nn.Module):
    """Denoiser of a point mass at zero that keeps the states it sees."""

    sigma_min, sigma_max = 0.0, 100.0

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def forward(self, x, sigma, label=None):
        self.seen.append(x.detach().clone())
        return torch.zeros_like(x)


@pytest.mark.parametrize("schedule", [VP(), DDPM()])
def test_the_noise_of_a_purification_is_independent_of_the_diffused_image(schedule):
    """The forward noise is what the first call sees, scaled; the state after a step of Ancestral adds only its own."""
    denoiser = Zero()
    purifier = DiffusionPurifier(denoiser, t_star=0.3, steps=STEPS, solver=Ancestral(), schedule=schedule)
    with torch.no_grad():
        purifier(torch.full((40, 1, 8, 8), 0.5), NOISE)  # 0 in the model frame
    times = torch.tensor(TimeGrid.uniform(0.3, steps=STEPS).times, dtype=torch.float64)
    sigma = schedule.sigma(times)
    innovations = [denoiser.seen[0]]
    for k in range(1, STEPS):
        innovations.append(denoiser.seen[k] - (sigma[k] / sigma[k - 1]) ** 2 * denoiser.seen[k - 1])
    assert largest_correlation(innovations) < 5
