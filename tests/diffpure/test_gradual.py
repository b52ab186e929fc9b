"""Gradual noise: which levels the network sees, and what comes out where the answer is known."""

import pytest
import torch
from torch import nn

from common.diffusion.denoisers import EpsDenoiser
from common.diffusion.modes import Surrogate
from common.diffusion.schedules import DDPM
from common.exact import ExactDenoiser, GaussianMixture
from common.noise import Noise
from diffpure.gradual import Block, GradualNoise

NOISE = Noise.of(3, torch.tensor([8, 1]))
SHAPE = (1, 3, 3)


def test_the_network_sees_the_papers_levels():
    """30, 29 .. 1 four times, then twice from 50 and twice from 125: as indices, one less. One call each."""
    seen = []

    class Spy(nn.Module):
        def forward(self, x, label):
            seen.append(int(label[0]))
            return x

    GradualNoise(EpsDenoiser.guided_diffusion(Spy()))(torch.rand(2, *SHAPE), NOISE)
    expected = [i for depth, rounds in ((30, 4), (50, 2), (125, 2)) for _ in range(rounds) for i in range(depth)[::-1]]
    assert seen == expected


def test_point_masses_are_found():
    """DDPM steps are exact for a point mass: whatever comes in, it comes out."""
    centre = torch.linspace(-0.8, 0.8, 9, dtype=torch.float64).view(1, *SHAPE)
    chain = GradualNoise(ExactDenoiser(GaussianMixture(centre, 0.0)), [Block(0.02, 2), Block(0.03)])
    image = torch.rand(2, *SHAPE, dtype=torch.float64)
    torch.testing.assert_close(2 * chain(image, NOISE) - 1, centre.expand(2, *SHAPE), rtol=0, atol=1e-10)


def test_rounds_are_ddpm_with_their_own_noise():
    """One block of one step, twice, on N(m, s^2): the posterior mean at index 0, by hand."""
    mean, std, sigma = 0.3, 0.01, float(DDPM().sigmas[0])
    denoiser = ExactDenoiser(GaussianMixture(torch.full((1, *SHAPE), mean, dtype=torch.float64), std))
    x = image = torch.rand(2, *SHAPE, dtype=torch.float64)
    for k in range(2):
        z = NOISE.stream("stage 0").stream(f"round {k}").normal(0, SHAPE).double()
        noisy = 2 * x - 1 + sigma * z
        x = ((std**2 * noisy + sigma**2 * mean) / (std**2 + sigma**2) + 1) / 2
    found = GradualNoise(denoiser, [Block(0.001, 2)])(image, NOISE)
    torch.testing.assert_close(found, x, rtol=0, atol=1e-10)


def test_blocks_differentiate_as_they_say():
    means = torch.stack((torch.full(SHAPE, -0.3, dtype=torch.float64), torch.full(SHAPE, 0.4, dtype=torch.float64)))
    denoiser = ExactDenoiser(GaussianMixture(means, 0.4))
    exact = GradualNoise(denoiser, [Block(0.003), Block(0.005, 2)], gradient="full")
    image = torch.rand(2, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weight = torch.linspace(-2, 2, 27, dtype=torch.float64).sin().view(9, 3)
    torch.autograd.gradcheck(lambda x: torch.tanh(exact(x, NOISE).flatten(1) @ weight), image)
    weaker = GradualNoise(denoiser, [Block(0.003, surrogate=1), Block(0.005, 2, surrogate=2)], gradient="full")
    modes = [stage.purifier.gradient for stage in weaker.stages]
    assert [(type(m), m.steps, type(m.gradient).__name__) for m in modes] == [
        (Surrogate, 1, "Full"),
        (Surrogate, 2, "Full"),
    ]
    assert torch.equal(weaker(image.detach(), NOISE), exact(image.detach(), NOISE))
    assert not torch.equal(weaker(image, NOISE), exact(image, NOISE))


def test_the_denoiser_is_shared():
    denoiser = EpsDenoiser.guided_diffusion(nn.Conv2d(1, 1, 1))
    chain = GradualNoise(denoiser)
    assert all(stage.purifier.denoiser is denoiser for stage in chain.stages)
    assert len(list(chain.parameters())) == 2


def test_impossible_blocks_are_refused():
    with pytest.raises(ValueError, match="rounds must be an integer >= 1"):
        Block(0.1, 0)
    with pytest.raises(ValueError, match="blocks must be a list of at least 1"):
        GradualNoise(EpsDenoiser.guided_diffusion(nn.Identity()), [])
    with pytest.raises(ValueError, match="fewer steps"):
        GradualNoise(EpsDenoiser.guided_diffusion(nn.Identity()), [Block(0.01, surrogate=10)])
