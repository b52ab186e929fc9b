"""Trajectories: recorded without a change to the result, and with exact gradients."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from common.diffusion.bound_denoiser import BoundDenoiser
from common.diffusion.composed import Chain, Repeated
from common.diffusion.differentiation import Full
from common.diffusion.modes import Surrogate
from common.diffusion.purifiers import DiffusionPurifier
from common.diffusion.schedules import VP
from common.diffusion.steps import Step
from common.diffusion.trajectories import Trajectory
from common.exact import ExactDenoiser, GaussianMixture
from common.noise import Noise
from common.units import to_model, to_pixel

F64 = torch.float64
NOISE = Noise.of(3, torch.tensor([5, 2]))


def mixture() -> ExactDenoiser:
    means = torch.randn(5, 1, 3, 3, dtype=F64, generator=torch.Generator().manual_seed(0)) / 2
    return ExactDenoiser(GaussianMixture(means, 0.3))


def purifier(gradient="checkpoint", steps=6, solver="euler_maruyama") -> DiffusionPurifier:
    return DiffusionPurifier(mixture(), VP(), 0.2, steps, solver, gradient)


def image() -> torch.Tensor:
    return torch.rand(2, 1, 3, 3, dtype=F64, generator=torch.Generator().manual_seed(1))


def deviation(purifier, x, times=None):
    with purifier.recorded() as trajectories:
        purifier(x, NOISE)
    return trajectories[0].deviation(times)


def test_states_are_those_of_the_process():
    """Written out by the solver alone, with the noise of each step; x_t by the closed form of diffusion."""
    x, each = image().requires_grad_(), purifier()
    with each.recorded() as trajectories:
        result = each(x, NOISE)
    (trajectory,) = trajectories
    x0, state, expected = to_model(image()), to_model(each.diffuse(image(), NOISE)), []
    times = [0.2 + (1e-5 - 0.2) * k / 6 for k in range(7)]
    for k, (t, t_next) in enumerate(pairwise(times), start=1):
        now, following = torch.tensor(t, dtype=F64), torch.tensor(t_next, dtype=F64)
        z = NOISE.normal(k, (1, 3, 3)).to(F64)
        (step,) = Step.between(VP(), torch.stack((now, following)), state, {1: z})
        state = each.solver(replace(step, last=k == 6), state, each.denoiser)
        s, sigma = VP().scale(following), VP().sigma(following)
        there = s * (x0 + sigma * NOISE.normal(0, (1, 3, 3)).to(F64))
        expected.append((state, (there - state).flatten(1).square().mean(1)))
    assert [float(t) for t, _ in trajectory.states] == pytest.approx(times[1:], rel=1e-12)
    for (_, seen), (state, _) in zip(trajectory.states, expected, strict=True):
        torch.testing.assert_close(seen, state, rtol=0, atol=1e-12)
    torch.testing.assert_close(to_pixel(trajectory.states[-1][1]), result, rtol=0, atol=0)
    mean = torch.stack([gap for _, gap in expected]).mean(0)
    torch.testing.assert_close(trajectory.deviation(), mean, rtol=1e-12, atol=0)


@pytest.mark.parametrize("solver", ["euler_maruyama", "ancestral", "ddim", "probability_flow_heun"])
@pytest.mark.parametrize("gradient", ["checkpoint", "full"])
def test_gradients_of_the_deviation_are_exact(solver, gradient):
    """Against finite differences: paths through every step, through the start and straight through x_t."""
    each = purifier(gradient, 4, solver)
    assert torch.autograd.gradcheck(lambda x: deviation(each, x), image().requires_grad_())
    assert torch.autograd.gradcheck(lambda x: deviation(each, x, 2), image().requires_grad_())


class Pulled(BoundDenoiser):
    def __call__(self, x, sigma):
        return self.denoiser(x, sigma) + (sigma**2)[:, None, None, None] * (self.tensors[0] - torch.tanh(x))


class Anchored(DiffusionPurifier):
    """Pulled towards a function of its input."""

    def bind(self, x0, noise):
        return Pulled(self.denoiser, (torch.sin(3 * x0),))


@pytest.mark.parametrize("gradient", ["checkpoint", "full"])
def test_bound_tensors_receive_the_gradient_of_the_states(gradient):
    each = Anchored(mixture(), VP(), 0.3, 4, gradient=gradient)
    assert torch.autograd.gradcheck(lambda x: deviation(each, x), image().requires_grad_())


def test_recording_changes_nothing():
    """Neither the result nor its gradient, to the last bit; and nothing is kept without a gradient."""
    each, x = purifier(), image().requires_grad_()
    with each.recorded() as trajectories:
        recorded = torch.autograd.grad(each(x, NOISE).square().sum(), x)[0]
        assert len(trajectories) == 1
        each(image(), NOISE)
        with torch.no_grad():
            each(x, NOISE)
        assert len(trajectories) == 1
    assert torch.equal(recorded, torch.autograd.grad(each(x, NOISE).square().sum(), x)[0])
    assert len(trajectories) == 1


def test_surrogates_show_the_coarse_process():
    coarse = deviation(purifier("full", 3), image().requires_grad_())
    assert torch.equal(deviation(purifier(Surrogate(3)), image().requires_grad_()), coarse)
    assert torch.equal(deviation(purifier(Surrogate(3, Full())), image().requires_grad_()), coarse)


@pytest.mark.parametrize("gradient", ["bpda", "adjoint", Surrogate(3, "adjoint")])
def test_gradients_without_states_are_refused(gradient):
    with pytest.raises(ValueError, match="does not reach the intermediate states"), purifier(gradient).recorded():
        pass


def test_recordings_nest_and_end_on_errors():
    each, x = purifier(), image().requires_grad_()
    with each.recorded() as outer:
        with each.recorded() as inner:
            each(x, NOISE)
        with pytest.raises(ValueError, match="a row of noise per image"), each.recorded():
            each(x, Noise.of(0, torch.tensor([1])))
        each(x, NOISE)
    each(x, NOISE)
    assert len(inner) == len(outer) == 1


def test_times_are_drawn_evenly_without_repetition():
    """Gaps 1, 2, 4 ... 32 identify the chosen nodes. Over 600 seeds each of 6 nodes is among 2 of them about 200 times;
    4.5 sd, sd 11.5: wrong once in 20000 runs."""
    states = [(torch.tensor(0.1), torch.full((1, 1), 2.0 ** (k / 2), dtype=F64)) for k in range(6)]
    counts = torch.zeros(6)
    for seed in range(600):
        trajectory = Trajectory(Noise.of(seed, torch.tensor([5])), lambda t: torch.zeros(1, 1, dtype=F64), states)
        chosen = round(2 * float(trajectory.deviation(2)))
        counts += torch.tensor([chosen >> k & 1 for k in range(6)])
        assert chosen.bit_count() == 2
    assert (counts - 200).abs().max() < 52
    assert float(trajectory.deviation(6)) == float(trajectory.deviation()) == pytest.approx(63 / 6, rel=1e-12)


def test_times_are_the_same_for_all_rows_in_any_batch():
    x, each = image().requires_grad_(), purifier()
    whole = deviation(each, x, 2)
    with each.recorded() as single:
        each(x[1:], Noise.of(3, torch.tensor([2])))
    torch.testing.assert_close(single[0].deviation(2), whole[1:], rtol=1e-12, atol=0)


def test_every_stage_records_its_own_trajectory():
    stages = Chain([Repeated(purifier(steps=2), 2), purifier(steps=3)])
    first, second = stages.stages[0].purifier, stages.stages[1]
    with first.recorded() as twice, second.recorded() as once:
        stages(image().requires_grad_(), NOISE)
    assert [len(each.states) for each in (*twice, *once)] == [2, 2, 3]
    assert len({each.noise.seed for each in (*twice, *once)}) == 3
