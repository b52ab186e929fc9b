"""A random depth: each row is what DiffPure at that depth would make of it."""

import pytest
import torch

from common.diffusion.denoisers import EDMDenoiser
from common.diffusion.modes import Surrogate
from common.diffusion.schedules import DDPM, VP
from common.exact import ExactDenoiser, GaussianMixture
from common.noise import Noise
from diffpure.purifier import DiffPure
from diffpure.randomised import RandomisedDiffPure

F64 = torch.float64
NOISE = Noise.of(3, torch.tensor([8, 1, 5]))
SHAPE = (1, 3, 3)
SOLVERS = ["euler_maruyama", "ancestral", "ddim", "probability_flow_euler", "probability_flow_heun"]


def denoiser() -> ExactDenoiser:
    means = torch.stack((torch.full(SHAPE, -0.3, dtype=F64), torch.full(SHAPE, 0.4, dtype=F64)))
    return ExactDenoiser(GaussianMixture(means, 0.4))


def depths(noise: Noise, t_star: float, spread: float) -> list[float]:
    """Uniform on [t_star - spread, t_star + spread], from a stream of its own."""
    return (t_star + spread * (2 * noise.stream("t_star").uniform(0, ()).double() - 1)).tolist()


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(3, *SHAPE, dtype=F64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("schedule", [VP(), DDPM()], ids=["vp", "ddpm"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_each_row_is_purified_at_its_depth(solver, schedule, image):
    """Noising and reverse process start at the same drawn time: rows equal those of purifiers made for that depth."""
    purifier = RandomisedDiffPure(denoiser(), 0.2, 0.1, steps=4, solver=solver, schedule=schedule)
    purified, diffused = purifier(image, NOISE), purifier.diffuse(image, NOISE)
    drawn = depths(NOISE, 0.2, 0.1)
    assert max(drawn) - min(drawn) > 0.03
    for b, t_star in enumerate(drawn):
        alone = DiffPure(denoiser(), t_star, steps=4, solver=solver, schedule=schedule)
        row = slice(b, b + 1)
        torch.testing.assert_close(purified[row], alone(image[row], NOISE.rows(row)), rtol=0, atol=1e-10)
        torch.testing.assert_close(diffused[row], alone.diffuse(image[row], NOISE.rows(row)), rtol=0, atol=1e-10)


def test_without_spread_it_is_diffpure(image):
    purified = RandomisedDiffPure(denoiser(), 0.1, spread=0.0)(image, NOISE)
    torch.testing.assert_close(purified, DiffPure(denoiser(), 0.1)(image, NOISE), rtol=0, atol=1e-12)


def test_depths_are_uniform_per_image_and_draw():
    """Kolmogorov distance of 4000 depths from the uniform law: 1.95 / sqrt(n) is exceeded once in 1000 times."""
    noise = Noise.of(0, torch.arange(1000)).draws(4)
    start = RandomisedDiffPure(denoiser(), 0.1).sampler(noise).t_star
    assert float(start.min()) >= 0.085
    assert float(start.max()) <= 0.115
    share = (start.sort().values - 0.085) / 0.03
    assert float((share - (torch.arange(4000) + 0.5) / 4000).abs().max()) < 1.95 / 4000**0.5
    again = RandomisedDiffPure(denoiser(), 0.1).sampler(noise.rows(slice(7, 9))).t_star
    assert torch.equal(again, start[7:9])


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("gradient", ["full", "checkpoint"])
def test_image_to_logits(solver, gradient, image):
    purifier = RandomisedDiffPure(denoiser(), 0.2, 0.1, steps=2, solver=solver, gradient=gradient)
    weight = torch.linspace(-2, 2, 27, dtype=F64).sin().view(9, 3)
    torch.autograd.gradcheck(lambda x: torch.tanh(purifier(x, NOISE).flatten(1) @ weight), image.requires_grad_())


def test_checkpoint_is_full_bit_for_bit(image):
    gradients = []
    for gradient in ("full", "checkpoint"):
        leaf = image.clone().requires_grad_()
        purified = RandomisedDiffPure(denoiser(), 0.1, gradient=gradient)(leaf, NOISE)
        gradients.append(torch.autograd.grad(purified.square().sum(), leaf)[0])
    assert torch.equal(*gradients)


def test_a_surrogate_starts_at_the_same_depth(image):
    purifier = RandomisedDiffPure(denoiser(), 0.2, 0.1, steps=6, gradient=Surrogate(2))
    recorded = purifier(image.clone().requires_grad_(), NOISE)
    coarse = RandomisedDiffPure(denoiser(), 0.2, 0.1, steps=2)(image, NOISE)
    torch.testing.assert_close(recorded, coarse, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"t_star": 0.1, "spread": -0.01}, "drawn depths"),
        ({"t_star": 0.1, "spread": 0.1}, "drawn depths"),
        ({"t_star": 0.99, "spread": 0.015}, "drawn depths"),
        ({"t_star": 100}, "t_star must be"),
        ({"t_star": 0.1, "solver": "torchsde"}, "one time for all rows"),
        ({"t_star": 0.1, "gradient": "adjoint"}, "one grid for all rows"),
    ],
)
def test_impossible_depths_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RandomisedDiffPure(denoiser(), **arguments)


def test_levels_of_the_extreme_depths_are_checked():
    network = torch.nn.Identity()
    highest = float(VP().sigma(torch.tensor(0.11)))
    DiffPure(EDMDenoiser(network, sigma_max=highest), 0.1, steps=4)
    with pytest.raises(ValueError, match="meant for"):
        RandomisedDiffPure(EDMDenoiser(network, sigma_max=highest), 0.1, steps=4)
    lowest = float(VP().sigma(torch.tensor(0.1 / 4)))  # where the last of four steps from 0.1 begins
    DiffPure(EDMDenoiser(network, sigma_min=lowest), 0.1, steps=4, t_end=1e-9)
    with pytest.raises(ValueError, match="meant for"):
        RandomisedDiffPure(EDMDenoiser(network, sigma_min=lowest), 0.1, steps=4, t_end=1e-9)
