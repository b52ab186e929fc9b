"""Parts inside a purifier that write into times, images and states: the purified image is that without."""

import pytest
import torch
from torch import nn

from agdm.guidance import AdversarialGuidance
from agdm.networks import GuidanceNetwork
from agdm.purifier import AGDM
from agdm.steering import Steering
from common.diffusion.composed import Chain, FixedNoise, Repeated, Resized
from common.diffusion.schedules import DDPM, VP
from common.noise import Noise
from diffpure.purifier import DiffPure
from tests.defences import denoiser

IMAGE = torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(0))
NOISE = Noise.of(0, torch.arange(5))
FUNCTIONS = ("sigma", "scale", "drift", "diffusion")


def writing_schedule(base, name):
    """The schedule, one of whose functions halves the times that it is given, afterwards."""

    class Writing(base):
        pass

    def function(self, t):
        value = getattr(base, name)(self, t.clone())
        t.mul_(0.5)
        return value

    setattr(Writing, name, function)
    return Writing()


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("base", [VP, DDPM])
@pytest.mark.parametrize("solver", ["euler_maruyama", "probability_flow_heun", "ddim", "ancestral"])
def test_a_schedule_that_writes_into_its_times_changes_no_image(base, name, solver):
    options = {"t_star": 0.1, "steps": 4, "solver": solver}
    expected = DiffPure(denoiser(), schedule=base(), **options)(IMAGE, NOISE)
    writing = DiffPure(denoiser(), schedule=writing_schedule(base, name), **options)
    for _ in range(2):
        assert torch.equal(writing(IMAGE, NOISE), expected)


class Scaling(nn.Module):
    """A purifier that scales its image, in place or not, and moves to the next row of noise."""

    randomised = False

    def __init__(self, in_place):
        super().__init__()
        self.in_place = in_place

    def forward(self, image, noise=None):
        if not self.in_place:
            return image * 0.9
        if noise is not None:
            noise.index.add_(1)
        return image.mul_(0.9)

    diffuse = forward


COMPOSED = {
    "Chain": lambda part: Chain([part, DiffPure(denoiser(), 0.1, steps=2)]),
    "Chain, second": lambda part: Chain([DiffPure(denoiser(), 0.1, steps=2), part]),
    "Repeated": lambda part: Repeated(part, 2),
    "Resized": lambda part: Resized(part, 8),
    "Resized to its own size": lambda part: Resized(part, 4),
    "FixedNoise": FixedNoise,
}


@pytest.mark.parametrize("composed", COMPOSED.values(), ids=COMPOSED)
@pytest.mark.parametrize("method", ["forward", "diffuse"])
def test_a_composed_purifier_keeps_the_callers_image_and_noise(composed, method):
    image, noise = IMAGE.clone(), NOISE.clone()
    found = getattr(composed(Scaling(True)), method)(image, noise)
    assert torch.equal(image, IMAGE) and torch.equal(noise.index, NOISE.index)
    assert torch.equal(found, getattr(composed(Scaling(False)), method)(IMAGE, NOISE))


class Phi(nn.Module):
    def __init__(self, in_place):
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.in_place = GuidanceNetwork(1, 3, width=8, strides=(1,)).eval(), in_place

    def forward(self, x, sigma=None):
        return self.inner(x.mul_(0.9) if self.in_place else x * 0.9, sigma)


STEERINGS = [Steering(), Steering(reference="diffused"), Steering(at="denoised")]


@pytest.mark.parametrize("steering", STEERINGS, ids=["clean", "diffused", "denoised"])
@pytest.mark.parametrize("attacked", [False, True])
def test_a_guidance_network_may_write_into_its_input(steering, attacked):
    found = []
    for in_place in (False, True):
        purifier = AGDM(denoiser(), AdversarialGuidance(Phi(in_place)), 0.1, steps=3, steering=steering)
        image = IMAGE.clone().requires_grad_(attacked)
        purified = purifier(image, NOISE)
        gradient = torch.autograd.grad(purified.sum(), image)[0] if attacked else purified
        found.append((purified.detach(), gradient.detach()))
    assert all(map(torch.equal, *found))
