"""States on the way of the variants that diffuse in another way."""

import pytest
import torch

from common.diffusion.schedules import VP, per_row
from common.exact import ExactDenoiser, GaussianMixture
from common.noise import Noise
from common.units import to_model
from diffpure.langevin import LangevinDiffPure
from diffpure.likelihood_maximisation import LikelihoodMaximisation
from diffpure.randomised import RandomisedDiffPure

F64 = torch.float64
NOISE = Noise.of(3, torch.tensor([5, 2]))


def trajectory(purifier, x):
    with purifier.recorded() as trajectories:
        purifier(x, NOISE)
    return trajectories[0]


def mixture() -> ExactDenoiser:
    means = torch.randn(5, 1, 3, 3, dtype=F64, generator=torch.Generator().manual_seed(0)) / 2
    return ExactDenoiser(GaussianMixture(means, 0.3))


def image() -> torch.Tensor:
    return torch.rand(2, 1, 3, 3, dtype=F64, generator=torch.Generator().manual_seed(1)).requires_grad_()


def gap(there, back):
    return (there - back).flatten(1).square().mean(1)


def test_rows_of_random_depth_are_diffused_to_their_own_times():
    purifier, x = RandomisedDiffPure(mixture(), 0.2, 0.05, steps=3), image()
    seen, x0, gaps = trajectory(purifier, x), to_model(x), []
    for t, state in seen.states:
        assert t.shape == (2,)
        z = NOISE.normal(0, (1, 3, 3)).to(F64)
        gaps.append(gap(per_row(VP().scale(t), x0) * (x0 + per_row(VP().sigma(t), x0) * z), state))
    assert float((seen.states[0][0][0] - seen.states[0][0][1]).abs()) > 1e-3
    torch.testing.assert_close(seen.deviation(), torch.stack(gaps).mean(0), rtol=1e-12, atol=0)
    assert torch.autograd.gradcheck(lambda x: trajectory(purifier, x).deviation(), x)


@pytest.mark.parametrize(
    "make",
    [lambda: LangevinDiffPure(mixture(), 0.2, steps=3), lambda: LikelihoodMaximisation(mixture(), 3)],
    ids=["langevin", "likelihood"],
)
def test_dynamics_without_diffusion_deviate_from_the_image(make):
    """The diffused image is x0 at every t."""
    purifier, x = make(), image()
    seen = trajectory(purifier, x)
    gaps = [gap(to_model(x), state) for _, state in seen.states]
    torch.testing.assert_close(seen.deviation(), torch.stack(gaps).mean(0), rtol=1e-12, atol=0)
    assert torch.autograd.gradcheck(lambda x: trajectory(purifier, x).deviation(), x)
