"""Gradient checks of a purifier: planted faults are measured with the errors that they have by construction."""

from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

from common.diffusion.adjoint import Adjoint
from common.diffusion.bound_denoiser import BoundDenoiser
from common.diffusion.denoisers import Denoiser, EDMDenoiser, EpsDenoiser
from common.diffusion.differentiation import BPDA, Checkpoint, Full
from common.diffusion.gradient_check.purifier_checks import gradient_findings
from common.diffusion.gradient_check.tracing import traced
from common.diffusion.modes import Surrogate
from common.diffusion.purifiers import DiffusionPurifier
from common.diffusion.schedules import DDPM, VP, per_row
from common.diffusion.solvers import TorchSDE
from common.noise import Noise

NOISE = Noise.of(3, torch.tensor([5]))
IMAGE = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(1))


class Body(nn.Module):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.conv = nn.Conv2d(1, 1, 3, padding=1)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) / 2

    def forward(self, x, label, class_labels=None):
        return torch.tanh(self.conv(x) + label.to(x.dtype)[:, None, None, None] / 1000)


@dataclass(frozen=True)
class Pushed(BoundDenoiser):
    scale: float = 1.0

    def __call__(self, x, sigma):
        return self.denoiser(x, sigma) + self.scale * per_row(sigma, x) ** 2 * self.tensors[0]


class Guided(DiffusionPurifier):
    """Pushed along ``scale * sin(3 x')``, x' its input."""

    scale, cut, bound = 2.0, False, Pushed

    def bind(self, x0, noise):
        reference = torch.sin(3 * x0)
        return self.bound(self.denoiser, (reference.detach() if self.cut else reference,), self.scale)


class Potential(nn.Module):
    def forward(self, x, sigma):
        return torch.sin(2 * x) + 0 * per_row(sigma, x)


@dataclass(frozen=True)
class Late(BoundDenoiser):
    """Guided by ``potential`` at ``share`` of the noise level."""

    potential: nn.Module = field(kw_only=True)
    share: float = field(kw_only=True)

    def __call__(self, x, sigma):
        return self.denoiser(x, sigma) + 0.1 * self.potential(x, self.share * sigma)


class LatePurifier(DiffusionPurifier):
    declared, share = True, 0.9

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        self.compass = Potential()

    @property
    def guides(self):
        return (self.compass,) if self.declared else ()

    def bind(self, x0, noise):
        return Late(self.denoiser, potential=self.compass, share=self.share)


def purifier(kind=DiffusionPurifier, steps=3, denoiser=None, schedule=None, **settings):
    return kind(denoiser or EDMDenoiser(Body()), schedule or VP(), 0.1, steps=steps, **settings)


def doubled(one):
    import copy

    return copy.deepcopy(one).double()


def found(one, double=True):
    return {finding.name: finding for finding in gradient_findings(one, IMAGE, NOISE, doubled(one) if double else None)}


def test_approximate_modes_are_declared():
    modes = (Full(), Checkpoint(), BPDA(), Adjoint(), Surrogate(2))
    assert [mode.approximate for mode in modes] == [False, False, True, True, True]

    class Own(Checkpoint):
        approximate = True

    declared = found(purifier(gradient=Own()))["declared gradient"]
    assert declared.sentence.startswith("The gradient Own is declared approximate")


@pytest.mark.parametrize("solver", ["euler_maruyama", "probability_flow_heun", TorchSDE("midpoint")])
@pytest.mark.parametrize("kind", [DiffusionPurifier, Guided])
def test_correct_purifiers_pass(kind, solver):
    for steps in (3, 9):
        one = purifier(kind, steps, solver=solver)
        findings = found(one)
        assert all(finding.passed and finding.decided for finding in findings.values())
        assert ("guidance path" in findings) == (kind is Guided)
        assert one.grid.steps == steps  # the chain was shortened in a copy
    assert all(finding.passed for finding in found(purifier(kind, solver=solver), double=False).values())


@pytest.mark.parametrize("gradient", ["full", "checkpoint"])
def test_a_trace_holds_every_step_and_its_recomputation(gradient):
    one = purifier(steps=5)
    with traced(one, Full() if gradient == "full" else Checkpoint()) as (trace, mode):
        leaf = IMAGE.clone().requires_grad_()
        with one.differentiated(mode):
            purified = one(leaf, NOISE)
        trace.turn_round()
        torch.autograd.grad(purified.sum(), leaf)
    assert torch.equal(purified, one(IMAGE, NOISE))
    assert [step.k for step in trace.steps[0]] == [1, 2, 3, 4, 5]
    assert [step.k for step in trace.steps[1]] == ([] if gradient == "full" else [5, 4, 3, 2, 1])
    times = torch.tensor(one.grid.times[:-1], dtype=torch.float64)
    asked = torch.cat([call.sigma for call in trace.calls[0]])
    assert torch.allclose(asked, VP().sigma(times), rtol=1e-6)
    assert torch.equal(trace.steps[0][-1].after, 2 * purified.detach() - 1) or torch.allclose(
        trace.steps[0][-1].after, 2 * purified.detach() - 1, atol=1e-6
    )
    assert trace.state_error() == trace.recomputed_level_error() == 0
    assert not one.denoiser._forward_pre_hooks
    assert not one.denoiser.network._forward_pre_hooks
    assert isinstance(one.gradient, Checkpoint)


@pytest.mark.parametrize(("declared", "share"), [(True, 1.0), (True, 0.9), (False, 0.9), (True, 0.5)])
def test_guidance_is_recognised_by_its_declaration(declared, share):
    """A declared guide may be evaluated down to the level where the step ends, 0.66 of its own, under any name."""
    kind = type("Other", (LatePurifier,), {"declared": declared, "share": share})
    error = found(purifier(kind, steps=3))["time grids"]
    assert error.passed == (share == 1.0 or (declared and share == 0.9))


class Louder(Denoiser):
    def __init__(self, denoiser, factor):
        super().__init__()
        self.inside, self.factor = denoiser, factor

    def forward(self, x, sigma, label=None):
        return self.inside(x, self.factor * sigma, label)


@pytest.mark.parametrize("factor", [0.9, 1.1, 1 + 1e-4])
def test_a_level_that_is_wrong_by_a_factor_is_measured(factor):
    error = found(purifier(denoiser=Louder(EDMDenoiser(Body()), factor)))["time grids"]
    assert not error.passed
    assert error.error == pytest.approx(abs(factor - 1), rel=1e-2)


@pytest.mark.parametrize("schedule", [DDPM(), VP()])
@pytest.mark.parametrize("rounding", ["nearest", "interpolate", "continuous"])
def test_labels_are_those_of_the_level(rounding, schedule):
    if rounding != "continuous" and isinstance(schedule, VP):
        return

    class Later(EpsDenoiser):
        shift = 0

        def time_label(self, sigma):
            return super().time_label(sigma) + self.shift

    denoiser = Later(Body(), schedule, rounding)
    one = purifier(denoiser=denoiser, steps=9, solver="ddim", schedule=schedule, t_end=0.01)
    assert found(one)["time labels"].passed
    denoiser.shift = 1
    assert not found(one)["time labels"].passed


def test_detached_reference_has_relative_error_one():
    one = purifier(Guided)
    one.cut = True
    path = found(one)["guidance path"]
    assert not path.passed
    assert path.error == pytest.approx(1, rel=1e-6)  # the gradient is zero, the difference is not
    assert "along the reference" in path.sentence
    one.scale = 0.0  # nothing goes that way: nothing is missed
    assert found(one)["guidance path"].passed


def test_guidance_constant_in_its_state_fails_in_a_single_step():
    class ForgetfulDenoiser(Pushed):
        def __call__(self, x, sigma):
            return Pushed(self.denoiser, (self.tensors[0] * torch.cos(x.detach()),), self.scale)(x, sigma)

    class Forgetful(Guided):
        bound = ForgetfulDenoiser

    path = found(purifier(Forgetful, steps=1))["guidance path"]
    assert not path.passed
    assert "along the states" in path.sentence


def test_declared_approximations_come_with_their_error():
    findings = found(purifier(steps=20, gradient=Surrogate(4)))
    declared = findings["declared gradient"]
    assert declared.passed
    assert not declared.decided
    assert 1e-3 < declared.error < 1
    assert "Surrogate" in declared.sentence
    assert all(finding.decided for name, finding in findings.items() if name != "declared gradient")


def test_purifiers_without_a_process_are_undecided():
    class Foreign(DiffusionPurifier):
        def forward(self, image, noise=None):
            return image + self.denoiser(image, image.new_full((len(image),), 0.5))

    findings = found(purifier(Foreign))
    assert not findings["recomputed states"].decided
    assert not findings["time grids"].decided
    assert findings["full graph"].decided
