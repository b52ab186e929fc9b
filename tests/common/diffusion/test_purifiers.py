"""Purifiers: frames, noise, graphs and borders."""

import copy

import pytest
import torch
from torch import nn

from common.diffusion.bound_denoiser import BoundDenoiser
from common.diffusion.denoisers import EDMDenoiser, EpsDenoiser
from common.diffusion.modes import Surrogate
from common.diffusion.purifiers import DiffusionPurifier
from common.diffusion.schedules import DDPM, EDM, VP
from common.diffusion.solvers import DDIM
from common.exact import ExactDenoiser, GaussianMixture
from common.noise import Noise

SOLVERS = ["euler_maruyama", "ancestral", "ddim", "probability_flow_euler", "probability_flow_heun", "torchsde"]


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.dropout = nn.Conv2d(1, 1, 3, padding=1), nn.Dropout(0.5)

    def forward(self, x, c_noise, class_labels=None):
        return self.dropout(torch.tanh(self.conv(x) + c_noise[:, None, None, None]))


@pytest.fixture
def denoiser() -> EDMDenoiser:
    torch.manual_seed(0)
    return EDMDenoiser(Network())


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(7, 1, 6, 6, generator=torch.Generator().manual_seed(0))


NOISE = Noise.of(1, torch.tensor([4, 9, 2, 77, 5, 0, 31]))


@pytest.mark.parametrize("solver", SOLVERS)
def test_rows_do_not_depend_on_their_batch(denoiser, image, solver):
    """Same noise whatever the partition; float32 kernels may differ by rounding."""
    purifier = DiffusionPurifier(denoiser, VP(), 0.2, steps=6, solver=solver)
    whole = purifier(image, NOISE)
    for sizes in ((1,) * 7, (3, 4), (2, 5)):
        parts = zip(image.split(sizes), NOISE.index.split(sizes), strict=True)
        again = torch.cat([purifier(x, Noise.of(1, index)) for x, index in parts])
        torch.testing.assert_close(again, whole, rtol=0, atol=2e-6)
    other = purifier(image, Noise.of(2, NOISE.index))
    assert (other - whole).abs().amax((1, 2, 3)).min() > 1e-3


def test_draws_of_an_image_differ(denoiser, image):
    purifier = DiffusionPurifier(denoiser, VP(), 0.2, steps=3)
    results = purifier(image.repeat_interleave(2, 0), NOISE.draws(2)).view(7, 2, -1)
    assert (results[:, 0] - results[:, 1]).abs().amax(1).min() > 1e-3
    torch.testing.assert_close(results[:, 0], purifier(image, NOISE).view(7, -1))


def test_without_noise_it_is_drawn_afresh(denoiser, image):
    purifier = DiffusionPurifier(denoiser, VP(), 0.2, steps=3)
    assert not torch.equal(purifier(image), purifier(image))


def test_diffused_image(denoiser, image):
    """x_t = sqrt(abar) x0 + sqrt(1 - abar) z_0 in the model frame, abar(0.1) = 0.89628."""
    diffused = DiffusionPurifier(denoiser, VP(), 0.1).diffuse(image, NOISE)
    x = 0.89628**0.5 * (2 * image - 1) + (1 - 0.89628) ** 0.5 * NOISE.normal(0, (1, 6, 6))
    torch.testing.assert_close(diffused, (x + 1) / 2, rtol=0, atol=1e-5)


def test_steps_read_their_own_noise(denoiser, image):
    """Step 0 diffuses, step k drives solver step k: one Euler-Maruyama step written out."""
    purifier = DiffusionPurifier(denoiser, VP(), 0.1, steps=1)
    x = 2 * purifier.diffuse(image, NOISE) - 1
    t = torch.tensor(0.1)
    s, sigma = VP().scale(t), VP().sigma(t)
    beta, h = 0.1 + 19.9 * 0.1, 0.1 - 1e-5
    score = (s * denoiser(x / s, sigma) - x) / (s * sigma) ** 2
    expected = x + h * (beta / 2 * x + beta * score) + (beta * h) ** 0.5 * NOISE.normal(1, (1, 6, 6))
    torch.testing.assert_close(2 * purifier(image, NOISE) - 1, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("gradient", ["checkpoint", "full", "adjoint", "bpda", Surrogate(2)])
def test_a_graph_is_formed_only_when_the_image_requires_it(denoiser, image, gradient):
    purifier = DiffusionPurifier(denoiser, VP(), 0.1, steps=4, gradient=gradient)
    denoiser.requires_grad_(True)  # somebody unfroze it: still no graph
    assert purifier(image, NOISE).grad_fn is None
    leaf = image.clone().requires_grad_()
    with torch.no_grad():
        assert purifier(leaf, NOISE).grad_fn is None
    with torch.inference_mode():
        purifier(image, NOISE)
    assert purifier(leaf, NOISE).grad_fn is not None


def test_a_graph_is_formed_when_a_bound_tensor_requires_it(denoiser, image):
    class Shifted(BoundDenoiser):
        def __call__(self, x, sigma):
            return self.denoiser(x, sigma) + self.tensors[0]

    class Guided(DiffusionPurifier):
        shift = torch.zeros(1, 1, 6, 6, requires_grad=True)

        def bind(self, x0, noise):
            return Shifted(self.denoiser, (self.shift,))

    purifier = Guided(denoiser, VP(), 0.1, steps=3)
    (gradient,) = torch.autograd.grad(purifier(image, NOISE).sum(), purifier.shift)
    assert gradient.abs().min() > 0
    with torch.no_grad():
        assert purifier(image, NOISE).grad_fn is None


def test_denoiser_is_frozen(denoiser, image):
    purifier = DiffusionPurifier(denoiser.train(), VP(), 0.1, steps=3)
    assert not any(p.requires_grad for p in purifier.parameters())
    reference = purifier(image, NOISE)
    purifier.train()
    assert purifier.training
    assert not denoiser.training
    assert torch.equal(purifier(image, NOISE), reference)  # no dropout


def test_dtype_is_kept(image):
    for dtype in (torch.float32, torch.float64):
        mixture = GaussianMixture(torch.zeros(2, 1, 6, 6, dtype=dtype), 0.3)
        for solver in SOLVERS:
            purifier = DiffusionPurifier(ExactDenoiser(mixture), VP(), 0.1, steps=2, solver=solver)
            assert purifier(image.to(dtype), NOISE).dtype == dtype


@pytest.mark.parametrize(("schedule", "t_star"), [(VP(), 0.4), (DDPM(), 0.4), (EDM(), 2.0)])
@pytest.mark.parametrize("solver", SOLVERS)
def test_every_schedule_and_solver_restores_a_mode(schedule, t_star, solver, image):
    """Two far modes: a slightly moved mode is purified back to the mode."""
    means = torch.stack((torch.full((1, 6, 6), -0.7), torch.full((1, 6, 6), 0.7)))
    purifier = DiffusionPurifier(ExactDenoiser(GaussianMixture(means, 0.05)), schedule, t_star, 100, solver)
    start = (means[[0, 1, 1, 0, 1, 0, 0]] + 0.3 * (2 * image - 1) + 1) / 2
    home = 2 * purifier(start, NOISE) - 1
    assert (home - means[[0, 1, 1, 0, 1, 0, 0]]).flatten(1).mean(1).abs().max() < 0.06
    assert home.std((1, 2, 3)).max() < 0.12


def test_a_purifier_can_be_copied(denoiser, image):
    purifier = DiffusionPurifier(denoiser, DDPM(), 0.1, steps=3, solver=DDIM(0.5))
    twin = copy.deepcopy(purifier)
    assert torch.equal(twin(image, NOISE), purifier(image, NOISE))
    assert not list(purifier.buffers())
    assert set(purifier.state_dict()) == {f"denoiser.{key}" for key in denoiser.state_dict()}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"t_star": 1.2}, "t_star must be"),
        ({"t_star": 100}, "t_star must be"),
        ({"t_star": 0.0}, "t_star must be"),
        ({"t_star": 0.1, "steps": 0}, "steps must be"),
        ({"t_star": 0.1, "solver": "rk45"}, "solver must be one of"),
        ({"t_star": 0.1, "gradient": "exact"}, "gradient must be one of"),
        ({"t_star": 0.1, "gradient": "surrogate", "steps": 5}, "fewer steps"),
        ({"t_star": 0.1, "gradient": "adjoint", "solver": "ddim"}, "Euler-Maruyama"),
    ],
)
def test_impossible_purifiers_are_refused(denoiser, arguments, message):
    with pytest.raises(ValueError, match=message):
        DiffusionPurifier(denoiser, VP(), **arguments)


def test_noise_levels_unknown_to_the_denoiser_are_refused():
    eps = EpsDenoiser.guided_diffusion(Network())
    DiffusionPurifier(eps, DDPM(), 0.1)
    with pytest.raises(ValueError, match="meant for"):
        DiffusionPurifier(eps, DDPM(), 0.1, steps=3000)
    with pytest.raises(ValueError, match="meant for"):
        DiffusionPurifier(EDMDenoiser(Network(), sigma_max=1.0), VP(), 0.5)


def test_wrong_batches_are_refused(denoiser, image):
    purifier = DiffusionPurifier(denoiser, VP(), 0.1, steps=2)
    with pytest.raises(ValueError, match="a row of noise per image"):
        purifier(image, NOISE.draws(2))
    with pytest.raises(ValueError, match="must be floats"):
        purifier(image[0])
    with pytest.raises(ValueError, match="must be floats"):
        purifier((255 * image).to(torch.uint8))


@pytest.mark.gpu
def test_gradient_on_an_accelerator(denoiser, image):
    """Same noise and, to float32 rounding, same result and gradient as on the CPU."""
    purifier = DiffusionPurifier(denoiser, DDPM(), 0.1, steps=10)
    results = []
    for device in ("cpu", "cuda"):
        leaf = image.to(device).requires_grad_()
        result = purifier.to(device)(leaf, NOISE)
        (gradient,) = torch.autograd.grad(result.square().sum(), leaf)
        results.append((result.detach().cpu(), gradient.cpu()))
    torch.testing.assert_close(results[0], results[1], rtol=1e-3, atol=1e-4)
