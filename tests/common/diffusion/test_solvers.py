"""Solvers on Gaussian data, where every step is affine and every law is known: orders of convergence, and limits."""

import math
from dataclasses import replace

import pytest
import torch
from scipy import stats

from common.diffusion.bound_denoiser import BoundDenoiser
from common.diffusion.differentiation import Full
from common.diffusion.reverse_process import Process, Sampler
from common.diffusion.schedules import DDPM, EDM, VP
from common.diffusion.solvers import (
    DDIM,
    Ancestral,
    EulerMaruyama,
    ProbabilityFlowEuler,
    ProbabilityFlowHeun,
    TorchSDE,
    as_solver,
)
from common.diffusion.steps import Draws, Step
from common.diffusion.time_grids import TimeGrid
from common.exact import ExactDenoiser, GaussianMixture
from common.noise import Noise

F64 = torch.float64
MEAN, STD = 0.4, 0.3
GAUSSIAN = ExactDenoiser(GaussianMixture(torch.full((1, 1, 1, 1), MEAN, dtype=F64), STD))
COARSE_DDPM = DDPM(num_steps=10, beta_start=0.05, beta_end=0.4)
SOLVERS = {
    "euler_maruyama": EulerMaruyama,
    "ancestral": Ancestral,
    "ddim": DDIM,
    "probability_flow_euler": ProbabilityFlowEuler,
    "probability_flow_heun": ProbabilityFlowHeun,
    "torchsde": TorchSDE,
}


def single(schedule, x, t, t_next, z=None, last=False) -> Step:
    """One step from t to t_next, () or (B,), for the state x."""
    (step,) = Step.between(schedule, torch.stack((t, t_next)), x, None if z is None else {1: z})
    return replace(step, last=last)


def run(denoise, schedule, solver, grid, start, noise) -> torch.Tensor:
    """The state at the end of a reverse process."""
    return Full().run(Process(start, start, noise, Sampler(schedule, solver, grid), BoundDenoiser(denoise)))


def affine(solver, schedule, t, t_next, last=False, denoiser=GAUSSIAN) -> tuple[float, float, float]:
    """The step x -> a x + b + c z, read off at three points."""
    t, t_next = torch.tensor(t, dtype=F64), torch.tensor(t_next, dtype=F64)

    def step(x, z):
        x, z = torch.full((1, 1, 1, 1), x, dtype=F64), torch.full((1, 1, 1, 1), z, dtype=F64)
        return float(solver(single(schedule, x, t, t_next, z if solver.stochastic else None, last), x, denoiser))

    b = step(0.0, 0.0)
    return step(1.0, 0.0) - b, b, step(0.0, 1.0) - b


def law(schedule, t: float) -> tuple[float, float]:
    """Mean and variance of x_t = s (x0 + sigma n)."""
    t = torch.tensor(t, dtype=F64)
    s, sigma = float(schedule.scale(t)), float(schedule.sigma(t))
    return s * MEAN, s**2 * (STD**2 + sigma**2)


def moments_after(solver, schedule, t_star: float, t_end: float, steps: int) -> tuple[float, float]:
    """Mean and variance at t_end of a process that starts from the exact law at t_star."""
    mean, variance = law(schedule, t_star)
    grid = TimeGrid.uniform(t_star, t_end, steps, t_max=schedule.t_max)
    for k in range(1, steps + 1):
        a, b, c = affine(solver, schedule, grid.times[k - 1], grid.times[k], last=k == steps)
        mean, variance = a * mean + b, a**2 * variance + c**2
    return mean, variance


# ---- the grid ----


def test_default_grid_is_that_of_diffpure():
    grid = TimeGrid.uniform(0.1)
    assert grid.steps == 100
    assert grid.times[:-1] == pytest.approx([k / 1000 for k in range(100, 0, -1)], abs=1e-15)
    assert grid.times[-1] == 1e-5
    assert [TimeGrid.uniform(t).steps for t in (0.075, 0.125, 0.15, 0.5, 1.0)] == [75, 125, 150, 500, 1000]
    assert TimeGrid.uniform(0.1, t_end=0.0).steps == 100
    assert TimeGrid.uniform(0.0004).times == (0.0004, 1e-5)


def test_uniform_grid():
    grid = TimeGrid.uniform(0.3, 0.1, steps=4)
    assert grid.times == pytest.approx([0.3, 0.25, 0.2, 0.15, 0.1])
    assert tuple(grid.nodes.tolist()) == grid.times
    assert grid.nodes.dtype == F64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"t_star": 0.0}, "t_star must be"),
        ({"t_star": -0.1}, "t_star must be"),
        ({"t_star": 1.5}, r"t_star must be a time in \(0, 1\]"),
        ({"t_star": 100}, "t_star = 0.1"),
        ({"t_star": math.nan}, "t_star must be"),
        ({"t_star": 0.1, "t_end": 0.1}, "t_end must be"),
        ({"t_star": 0.1, "t_end": -1e-3}, "t_end must be"),
        ({"t_star": 0.1, "steps": 0}, "steps must be"),
        ({"t_star": 0.1, "dt": 0.0}, "dt must be"),
    ],
)
def test_impossible_grids_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        TimeGrid.uniform(**arguments)


def test_unordered_grid_is_refused():
    for times in ((0.1,), (0.1, 0.2), (0.1, 0.1), (0.1, -0.1)):
        with pytest.raises(ValueError, match=r"descending|list of at least 2"):
            TimeGrid(times)


# ---- probability flow ----


@pytest.mark.parametrize(
    ("solver", "order", "schedule", "t_star", "t_end"),
    [
        (ProbabilityFlowEuler(), 1, VP(), 0.6, 0.1),
        (ProbabilityFlowEuler(), 1, EDM(), 2.0, 0.2),
        (ProbabilityFlowEuler(), 1, COARSE_DDPM, 0.9, 0.2),
        (ProbabilityFlowHeun(), 2, VP(), 0.6, 0.1),
        (ProbabilityFlowHeun(), 2, EDM(), 2.0, 0.2),
    ],
)
def test_probability_flow_order_and_limit(solver, order, schedule, t_star, t_end):
    """The exact flow keeps (x_t - mean_t) / std_t. The error falls by 2^order when steps double.

    On the coarse DDPM, whose beta jumps at the indices, only Euler has its order: Heun reads the beta behind a node.
    """
    (mean, variance), (mean_end, variance_end) = law(schedule, t_star), law(schedule, t_end)
    exact = mean_end + math.sqrt(variance_end / variance) * (1.1 - mean)

    def error(steps: int) -> float:
        grid = TimeGrid.uniform(t_star, t_end, steps, t_max=schedule.t_max)
        start = torch.full((1, 1, 1, 1), 1.1, dtype=F64)
        return float(run(GAUSSIAN, schedule, solver, grid, start, Noise.of(0, torch.arange(1)))) - exact

    coarse, fine = error(140), error(280)
    assert math.log2(abs(coarse / fine)) == pytest.approx(order, abs=0.15)
    assert abs(fine) < 0.02 / 10 ** (order - 1)
    assert abs((2**order * fine - coarse) / (2**order - 1)) < 0.1 * abs(fine)  # extrapolated to step 0: the limit


# ---- reverse SDE ----


@pytest.mark.parametrize(
    ("schedule", "t_star", "t_end"), [(VP(), 0.6, 0.1), (EDM(), 2.0, 0.2), (COARSE_DDPM, 0.9, 0.2)]
)
def test_euler_maruyama_weak_order_and_limit(schedule, t_star, t_end):
    """Mean and variance by exact recursion (no sampling): error of order 1, limit the law of x_{t_end}.

    Without a drift (EDM) the mean is a martingale, which Euler-Maruyama preserves.
    """
    exact = law(schedule, t_end)
    coarse = moments_after(EulerMaruyama(), schedule, t_star, t_end, 140)
    fine = moments_after(EulerMaruyama(), schedule, t_star, t_end, 280)
    assert fine[0] == pytest.approx(exact[0], rel=1e-10 if isinstance(schedule, EDM) else 0.01)
    moments = (1,) if isinstance(schedule, EDM) else (0, 1)
    for target, a, b in ((exact[m], coarse[m], fine[m]) for m in moments):
        assert math.log2(abs((a - target) / (b - target))) == pytest.approx(1, abs=0.15)
        assert abs(2 * b - a - target) < 0.06 * abs(b - target)


def test_torchsde_takes_the_same_steps():
    x, z = torch.randn(2, 3, 1, 2, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
    step = single(VP(), x, torch.tensor(0.1, dtype=F64), torch.tensor(0.08, dtype=F64), z)
    expected = EulerMaruyama()(step, x, GAUSSIAN)
    torch.testing.assert_close(TorchSDE()(step, x, GAUSSIAN), expected, rtol=1e-7, atol=1e-7)
    assert (TorchSDE("midpoint")(step, x, GAUSSIAN) - expected).abs().max() > 1e-4
    exact = law(VP(), 0.1)[1]
    euler, midpoint = (moments_after(s, VP(), 0.6, 0.1, 40)[1] for s in (EulerMaruyama(), TorchSDE("midpoint")))
    assert abs(midpoint - exact) < abs(euler - exact) / 2


def test_torchsde_calls_the_network_once_a_step():
    calls = []

    def denoise(x, sigma):
        calls.append(sigma)
        return GAUSSIAN(x, sigma)

    grid = TimeGrid.uniform(0.1, steps=5)
    run(denoise, VP(), TorchSDE(), grid, torch.zeros(2, 1, 1, 1), Noise.of(0, torch.arange(2)))
    assert len(calls) == 5


# ---- posterior steps ----


@pytest.mark.parametrize("schedule", [VP(), EDM(), DDPM()])
@pytest.mark.parametrize("solver", [Ancestral("fixed_small"), Ancestral("fixed_large"), DDIM(1.0)])
def test_posterior_mean_is_exact_in_one_step(schedule, solver):
    """E[x_u | x_t] is linear for Gaussian data with slope Cov(x_u, x_t) / Var(x_t), x_t = (s_t/s_u) x_u + noise."""
    t, u = 0.7, 0.2
    a, b, _ = affine(solver, schedule, t, u)
    (mean_t, var_t), (mean_u, var_u) = law(schedule, t), law(schedule, u)
    decay = float(schedule.scale(torch.tensor(t, dtype=F64)) / schedule.scale(torch.tensor(u, dtype=F64)))
    assert a == pytest.approx(decay * var_u / var_t, rel=1e-9)
    assert b == pytest.approx(mean_u - a * mean_t, rel=1e-9)


@pytest.mark.parametrize("solver", [Ancestral("fixed_small"), DDIM(1.0), DDIM(0.5), DDIM(0.0)])
@pytest.mark.parametrize("schedule", [VP(), EDM()])
def test_point_mass_is_exact_in_one_step(solver, schedule):
    """With D = mu constant the law at t is N(s mu, s^2 sigma^2), and one step of any length gives the law at u."""
    t, u = torch.tensor(0.7, dtype=F64), torch.tensor(0.2, dtype=F64)

    def point(x, sigma):
        return torch.full_like(x, MEAN)

    a, b, c = affine(solver, schedule, float(t), float(u), denoiser=point)
    s, sigma, s_u, sigma_u = (float(f(v)) for v in (t, u) for f in (schedule.scale, schedule.sigma))
    assert a * s * MEAN + b == pytest.approx(s_u * MEAN, rel=1e-9)
    assert (a * s * sigma) ** 2 + c**2 == pytest.approx((s_u * sigma_u) ** 2, rel=1e-9)


def test_fixed_large_is_exact_for_standard_normal_data():
    """VP leaves N(0, 1) as it is; so does one reverse step of any length with Ho's beta."""
    standard = ExactDenoiser(GaussianMixture(torch.zeros(1, 1, 1, 1, dtype=F64), 1.0))
    a, b, c = affine(Ancestral("fixed_large"), VP(), 0.7, 0.2, denoiser=standard)
    assert a**2 + c**2 == pytest.approx(1, rel=1e-9)
    assert b == 0


@pytest.mark.parametrize("i", [3, 99, 700])
def test_ancestral_step_between_indices_is_the_published_one(i):
    """x_{i-1} = (x_i - beta_i / sqrt(1 - abar_i) eps) / sqrt(1 - beta_i) + std z, with Ho's two variances."""
    beta = torch.linspace(1e-4, 2e-2, 1000, dtype=F64)
    abar = (1 - beta).cumprod(0)
    x, z = torch.randn(2, 1, 1, 2, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
    eps = (x / abar[i].sqrt() - GAUSSIAN(x / abar[i].sqrt(), (1 / abar[i] - 1).sqrt())) / (1 / abar[i] - 1).sqrt()
    mean = (x - beta[i] / (1 - abar[i]).sqrt() * eps) / (1 - beta[i]).sqrt()
    small = beta[i] * (1 - abar[i - 1]) / (1 - abar[i])
    t, t_next = torch.tensor((i + 1) / 1000, dtype=F64), torch.tensor(i / 1000, dtype=F64)
    for variance, expected in (("fixed_large", beta[i]), ("fixed_small", small)):
        result = Ancestral(variance)(single(DDPM(), x, t, t_next, z), x, GAUSSIAN)
        torch.testing.assert_close(result, mean + expected.sqrt() * z, rtol=1e-8, atol=1e-8)
        final = Ancestral(variance)(single(DDPM(), x, t, t_next, z, last=True), x, GAUSSIAN)
        torch.testing.assert_close(final, mean, rtol=1e-8, atol=1e-8)


def test_ddim_step_is_the_published_one():
    """x_u = sqrt(abar_u) x0_hat + sqrt(1 - abar_u - s^2) eps + s z with s = eta sqrt(beta~)."""
    abar, abar_u = (float(VP().scale(torch.tensor(t, dtype=F64))) ** 2 for t in (0.3, 0.1))
    eta = 0.6
    x, z = torch.randn(2, 1, 1, 2, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
    x0_hat = GAUSSIAN(x / math.sqrt(abar), torch.tensor(math.sqrt(1 / abar - 1), dtype=F64))
    eps = (x - math.sqrt(abar) * x0_hat) / math.sqrt(1 - abar)
    spread = eta * math.sqrt((1 - abar_u) / (1 - abar) * (1 - abar / abar_u))
    expected = math.sqrt(abar_u) * x0_hat + math.sqrt(1 - abar_u - spread**2) * eps + spread * z
    t, t_next = torch.tensor(0.3, dtype=F64), torch.tensor(0.1, dtype=F64)
    torch.testing.assert_close(DDIM(eta)(single(VP(), x, t, t_next, z), x, GAUSSIAN), expected)


@pytest.mark.parametrize("solver", [Ancestral("fixed_large"), Ancestral(), DDIM(1.0), DDIM()])
def test_step_to_time_zero_returns_the_denoised_image(solver):
    x, z = torch.randn(2, 3, 1, 1, 1, dtype=F64, generator=torch.Generator().manual_seed(0))
    t = torch.tensor(0.02, dtype=F64)
    final = solver(single(VP(), x, t, torch.zeros((), dtype=F64), z, last=True), x, GAUSSIAN)
    torch.testing.assert_close(final, GAUSSIAN(x / VP().scale(t), VP().sigma(t)))


# ---- all ----


@pytest.mark.parametrize("name", SOLVERS)
def test_names(name):
    assert type(as_solver(name)) is SOLVERS[name]
    solver = SOLVERS[name]()
    assert as_solver(solver) is solver


def test_unknown_solvers_are_refused():
    for make in (lambda: as_solver("rk45"), lambda: DDIM(1.5), lambda: Ancestral("learned"), lambda: TorchSDE("srk")):
        with pytest.raises(ValueError, match="must be"):
            make()


@pytest.mark.parametrize("name", [name for name in SOLVERS if name != "torchsde"])
def test_times_per_row(name):
    """A step with times (B,) treats row b as a step with its times alone, in float32 as well."""
    solver = as_solver(name)
    t, t_next = torch.tensor([0.1, 0.5, 0.9], dtype=F64), torch.tensor([0.05, 0.3, 0.2], dtype=F64)
    for dtype in (torch.float32, F64):
        x, z = torch.randn(2, 3, 1, 2, 2, generator=torch.Generator().manual_seed(0)).to(dtype)
        denoiser = ExactDenoiser(GaussianMixture(torch.zeros(1, 1, 2, 2, dtype=dtype), 0.3))
        together = solver(single(VP(), x, t, t_next, z), x, denoiser)
        assert together.dtype == dtype
        rows = []
        for b in range(3):
            row = x[b : b + 1]
            rows.append(solver(single(VP(), row, t[b], t_next[b], z[b : b + 1]), row, denoiser))
        torch.testing.assert_close(together, torch.cat(rows))


@pytest.mark.parametrize("name", SOLVERS)
def test_reverse_process_restores_the_law_of_a_mixture(name):
    """From the exact law at t = 1, 3000 points in two dimensions, 100 steps: components' counts and spreads.

    Chi-square at 1e-4 with 3 components, six spreads within 4.5 standard errors plus 3 % for the discretisation: a seed
    fails with probability 2e-4.
    """
    n, steps = 3000, 100
    means = torch.tensor([[-0.8, 0.0], [0.6, 0.7], [0.5, -0.7]], dtype=F64).view(3, 1, 1, 2)
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=F64)
    mixture = GaussianMixture(means, 0.15, weights)
    noise = Noise.of(11, torch.arange(n))
    x0, _ = mixture.sample(noise.stream("data"))
    schedule, solver = VP(), as_solver(name)
    t = torch.tensor(1.0, dtype=F64)
    start = schedule.scale(t) * (x0 + schedule.sigma(t) * noise.normal(0, (1, 1, 2)))
    times = [(k / steps) ** 2 for k in range(steps, 0, -1)]  # finer towards the data
    grid = TimeGrid((*times, 1e-5))
    result = run(ExactDenoiser(mixture), schedule, solver, grid, start, noise)
    component = mixture.bayes_logits(result, 0.0).argmax(1)
    counts = torch.bincount(component, minlength=3)
    assert stats.chisquare(counts, n * weights).pvalue > 1e-4
    for m in range(3):
        mine = (result[component == m] - means[m]).reshape(-1, 2)
        assert mine.mean(0).abs().max() < 4.5 * 0.15 / math.sqrt(len(mine)) + 0.01
        assert (mine.std(0) / 0.15 - 1).abs().max() < 4.5 / math.sqrt(2 * len(mine)) + 0.03


def test_draws_are_the_same_kept_or_drawn_again(monkeypatch):
    noise, like = Noise.of(4, torch.tensor([7, 3])), torch.zeros(2, 1, 2, 2, dtype=F64)
    kept = Draws(noise, 5, like)
    monkeypatch.setattr("common.diffusion.steps._DRAWN_AT_ONCE", 10)
    again = Draws(noise, 5, like)
    assert kept.kept is not None
    assert again.kept is None
    for k in range(1, 6):
        assert torch.equal(kept[k], again[k])
        assert torch.equal(kept[k], noise.normal(k, (1, 2, 2)).double())
