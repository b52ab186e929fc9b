"""Gradient checks fail for time grids shifted in the recomputation or the conditioning."""

import torch

from common.diffusion.denoisers import Denoiser, EpsDenoiser
from common.diffusion.differentiation import Checkpoint
from common.diffusion.schedules import DDPM, VP
from common.diffusion.solvers import EulerMaruyama, ProbabilityFlowHeun
from common.robustness.classifiers import Purified
from diffpure.purifier import DiffPure
from tests.defences import Body, HomeMade, ShiftedConditioning, awake, denoiser, diffpure, failed, head

# ---- a time grid shifted by one step ----


class ShiftedBack(Checkpoint):
    """Recomputes step k at the times of step k + 1, an off-by-one error of adjoints."""

    def advance(self, process):
        return lambda step, x: _Shifted.apply(x, process, step)


class _Shifted(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, process, step):
        ctx.process, ctx.step = process, step
        ctx.save_for_backward(x)
        return process.step(step, x)

    @staticmethod
    def backward(ctx, cotangent):
        leaf = ctx.saved_tensors[0].detach().requires_grad_()
        later = ctx.process.steps[min(ctx.step.k, len(ctx.process.steps) - 1)]
        with torch.enable_grad():
            end = ctx.process.step(later, leaf)
        return torch.autograd.grad(end, leaf, cotangent)[0], None, None


class ShiftedDenoiser(Denoiser):
    def __init__(self, denoiser):
        super().__init__()
        self.denoiser = denoiser

    def forward(self, x, sigma, label=None):
        return self.denoiser(x, 1.1 * sigma, label)


class ShiftedLabel(EpsDenoiser):
    def time_label(self, sigma):
        return super().time_label(sigma) + 1


class CallsAtTheEnd(EulerMaruyama):
    """Calls the denoiser at the level at which a step ends."""

    def __call__(self, step, x, denoise):
        return super().__call__(step, x, lambda x, sigma: denoise(x, step.next.level))


class HeunAstray(ProbabilityFlowHeun):
    """Heun's method with the second call at a wrong noise level."""

    def __call__(self, step, x, denoise):
        calls = iter([1.0, 0.8])
        return super().__call__(step, x, lambda x, sigma: denoise(x, next(calls) * sigma))


class DiffusedElsewhere(DiffPure):
    """Diffuses to another time than the one that the reverse process starts from."""

    def diffused(self, x0, noise, t):
        return super().diffused(x0, noise, self.grid.nodes[1])


def test_time_grid_shifted_in_the_recomputation_fails():
    failures = failed(diffpure(gradient=ShiftedBack()))
    assert {"recomputed networks", "time grids", "full graph", "finite differences"} <= failures
    assert failed(Purified(HomeMade(shift=0.05), head())) == {"recomputed networks", "finite differences"}


def test_time_grid_shifted_in_the_conditioning_fails():
    shifted = Purified(DiffPure(ShiftedDenoiser(denoiser()), 0.1, steps=3), head())
    label = ShiftedLabel(awake(Body()), VP(), "continuous")
    for plant in (
        diffpure(ShiftedConditioning),
        shifted,
        diffpure(solver=CallsAtTheEnd()),
        diffpure(DiffusedElsewhere),
    ):
        assert failed(plant) == {"time grids"}
    assert failed(diffpure(solver=HeunAstray())) == {"time grids"}
    assert failed(Purified(DiffPure(label, 0.1, steps=3), head())) == {"time labels"}
    indices = ShiftedLabel(awake(Body()), DDPM(), "nearest")
    by_index = DiffPure(indices, 0.006, solver="ancestral", schedule=DDPM(), t_end=0.0)
    assert failed(Purified(by_index, head())) == {"time labels"}
