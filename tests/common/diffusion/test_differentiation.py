"""Modes of differentiation against finite differences or the exact gradient; exact modes agree bit for bit."""

import pytest
import torch
from torch import nn
from torch.autograd.gradcheck import GradcheckError

from common.diffusion.adjoint import Adjoint
from common.diffusion.bound_denoiser import BoundDenoiser
from common.diffusion.denoisers import EDMDenoiser
from common.diffusion.differentiation import BPDA, Checkpoint, Full
from common.diffusion.gradient_check.gradient_error import GradientError
from common.diffusion.modes import Surrogate, as_differentiation
from common.diffusion.purifiers import DiffusionPurifier
from common.diffusion.schedules import DDPM, VP, per_row
from common.diffusion.solvers import DDIM, Ancestral, Solver
from common.diffusion.time_grids import TimeGrid
from common.exact import ExactDenoiser, GaussianMixture
from common.noise import Noise

F64 = torch.float64
SOLVERS = [
    "euler_maruyama", "ancestral", "ddim", DDIM(0.7), "probability_flow_euler", "probability_flow_heun", "torchsde",
]  # fmt: skip
NOISE = Noise.of(3, torch.tensor([5, 2]))


class TinyNetwork(nn.Module):
    """Two convolutions and a noise level: smooth, and different at every level."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first, self.second = nn.Conv2d(1, width, 3, padding=1), nn.Conv2d(width, 1, 3, padding=1)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) / 2

    def forward(self, x, c_noise, class_labels=None):
        return self.second(torch.tanh(self.first(x) + c_noise[:, None, None, None]))


def denoiser(dtype=F64, width: int = 4) -> EDMDenoiser:
    return EDMDenoiser(TinyNetwork(width)).to(dtype)


def image(dtype=F64, side: int = 3, rows: int = 2) -> torch.Tensor:
    return torch.rand(rows, 1, side, side, dtype=F64, generator=torch.Generator().manual_seed(1)).to(dtype)


def logits(purified: torch.Tensor) -> torch.Tensor:
    """A fixed nonlinear head on the purified pixels, (B, 3)."""
    features = purified.flatten(1)
    weight = torch.linspace(-2, 2, 3 * features.shape[1], dtype=features.dtype).sin().view(-1, 3)
    return torch.tanh(features @ weight)


class GuidedPurifier(DiffusionPurifier):
    """Takes a gradient inside its forward pass and refers to its input, as guided purification does."""

    detached = False

    def bind(self, x0, noise):
        reference = torch.sin(3 * x0)
        return GuidedDenoiser(self.denoiser, (reference.detach() if self.detached else reference,))


class GuidedDenoiser(BoundDenoiser):
    def __call__(self, x, sigma):
        (reference,) = self.tensors
        recording = torch.is_grad_enabled() and (x.requires_grad or reference.requires_grad)
        with torch.enable_grad():
            point = x if x.requires_grad else x.detach().requires_grad_()
            energy = (torch.cos(point) * reference).sum()
            (gradient,) = torch.autograd.grad(energy, point, create_graph=recording)
        return self.denoiser(x, sigma) + 4 * per_row(sigma, x) ** 2 * gradient


def gradient_of(purifier, leaf, noise=NOISE):
    leaf = leaf.clone().requires_grad_()
    return torch.autograd.grad(logits(purifier(leaf, noise)).square().sum(), leaf)[0]


# ---- exact gradients ----


@pytest.mark.parametrize("kind", [DiffusionPurifier, GuidedPurifier])
@pytest.mark.parametrize("gradient", ["full", "checkpoint"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_image_to_logits(kind, gradient, solver):
    purifier = kind(denoiser(), VP(), 0.2, steps=3, solver=solver, gradient=gradient)
    torch.autograd.gradcheck(lambda x: logits(purifier(x, NOISE)), image().requires_grad_())


@pytest.mark.parametrize("kind", [DiffusionPurifier, GuidedPurifier])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("solver", SOLVERS)
def test_checkpoint_is_full_bit_for_bit(kind, dtype, solver):
    x = image(dtype, side=8)
    full, checkpoint = (
        gradient_of(kind(denoiser(dtype), DDPM(), 0.1, steps=6, solver=solver, gradient=g), x)
        for g in (Full(), Checkpoint(verify=True))
    )
    assert float((full - checkpoint).abs().max()) == 0
    assert float(full.abs().max()) > 1e-3


def test_checkpoint_is_full_on_the_grid_of_diffpure():
    x = image(torch.float32, side=8)
    purifiers = [GuidedPurifier(denoiser(torch.float32), VP(), 0.1, gradient=g) for g in ("full", "checkpoint")]
    full, checkpoint = (gradient_of(p, x) for p in purifiers)
    assert torch.equal(full, checkpoint)
    assert torch.equal(*(p(x.clone().requires_grad_(), NOISE) for p in purifiers))


def test_checkpoint_recomputes_under_the_same_autocast():
    x = image(torch.float32, side=8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        forwards = [
            DiffusionPurifier(denoiser(torch.float32), VP(), 0.1, steps=5, gradient=g)(x.requires_grad_(), NOISE)
            for g in (Full(), Checkpoint(verify=True))
        ]
    full, checkpoint = (torch.autograd.grad(f.square().sum(), x)[0] for f in forwards)
    assert torch.equal(full, checkpoint)
    plain = DiffusionPurifier(denoiser(torch.float32), VP(), 0.1, steps=5)(x, NOISE)
    assert (plain - forwards[0]).abs().max() > 1e-5  # autocast was really on


def test_memory_is_states_and_not_networks():
    """Bytes that autograd keeps between forward and backward: with Checkpoint less than three states a step."""

    def saved_bytes(gradient) -> int:
        seen: dict[int, int] = {}

        def pack(tensor):
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        purifier = DiffusionPurifier(denoiser(torch.float32, width=16), VP(), 0.1, steps=20, gradient=gradient)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            result = purifier(image(torch.float32, side=16).requires_grad_(), NOISE)
        assert result.requires_grad
        return sum(seen.values())

    state = 2 * 16 * 16 * 4
    assert saved_bytes(Checkpoint()) < 3 * 20 * state
    assert saved_bytes(Full()) > 16 * 20 * state


@pytest.mark.parametrize("gradient", ["full", "checkpoint", "adjoint", "bpda", Surrogate(2)])
def test_networks_get_no_gradient(gradient):
    """Not even with a network whose parameters ask for one, and not by backward() either."""
    network = denoiser()
    purifier = DiffusionPurifier(network, VP(), 0.1, steps=4, gradient=gradient)
    assert not any(p.requires_grad for p in network.parameters())
    leaf = image().requires_grad_()
    purifier(leaf, NOISE).square().sum().backward()
    assert leaf.grad is not None
    assert all(p.grad is None for p in network.parameters())


def test_second_derivatives_are_refused():
    leaf = image().requires_grad_()
    (first,) = torch.autograd.grad(
        DiffusionPurifier(denoiser(), VP(), 0.1, steps=2)(leaf, NOISE).square().sum(), leaf, create_graph=True
    )
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


# ---- what goes wrong elsewhere is caught here ----


class Forgetful(DiffusionPurifier):
    """Draws noise inside a step from a generator: what recomputation cannot reproduce."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.generator = torch.Generator().manual_seed(0)

    def bind(self, x0, noise):
        def jittered(x, sigma):
            jitter = torch.randn(x.shape, dtype=x.dtype, generator=self.generator)
            return self.denoiser(x + 0.5 * jitter, sigma)

        return BoundDenoiser(jittered)


def test_noise_drawn_inside_a_step_is_caught():
    wrong, right = (
        gradient_of(Forgetful(denoiser(), VP(), 0.2, steps=3, gradient=g), image()) for g in ("checkpoint", "full")
    )
    assert (wrong - right).abs().max() > 0.01 * right.abs().max()  # silently wrong without the check
    with pytest.raises(RuntimeError, match="Noise must be drawn before the step"):
        gradient_of(Forgetful(denoiser(), VP(), 0.2, steps=3, gradient=Checkpoint(verify=True)), image())


@pytest.mark.parametrize("gradient", ["full", "checkpoint"])
def test_detached_context_is_caught(gradient):
    purifier = GuidedPurifier(denoiser(), VP(), 0.2, steps=3, gradient=gradient)
    purifier.detached = True
    with pytest.raises(GradcheckError):
        torch.autograd.gradcheck(lambda x: logits(purifier(x, NOISE)), image().requires_grad_())


# ---- approximate gradients ----


def error_of(purifier, image, noise=NOISE):
    """Error of the purifier's gradient against the exact one of the deployed process, of the squared logits."""
    gradients = []
    for mode in (purifier.gradient, Checkpoint()):
        x = image.clone().requires_grad_()
        with purifier.differentiated(mode):
            gradients += torch.autograd.grad(logits(purifier(x, noise)).square().sum(), x)
    return GradientError.between(*gradients)


def mixture(std: float, dtype=F64) -> ExactDenoiser:
    means = torch.randn(5, 1, 4, 4, dtype=dtype, generator=torch.Generator().manual_seed(0)) / 2
    return ExactDenoiser(GaussianMixture(means, std))


def test_adjoint_forward_is_euler_maruyama():
    for kind in (DiffusionPurifier, GuidedPurifier):
        for steps in (None, 7):
            adjoint, exact = (kind(mixture(0.1), VP(), 0.1, steps, gradient=g) for g in ("adjoint", "checkpoint"))
            x = image(side=4).requires_grad_()
            torch.testing.assert_close(adjoint(x, NOISE), exact(x, NOISE), rtol=1e-9, atol=1e-9)


def test_adjoint_error_is_measured(capsys):
    """On broad modes it agrees to 2 %, on sharp ones and on an untrained network less: printed for the record."""
    noise = Noise.of(0, torch.arange(4))
    lines = []
    for name, denoise in (("std 0.1", mixture(0.1)), ("std 0.02", mixture(0.02)), ("network", denoiser())):
        for t_end in (1e-5, 1e-3):
            purifier = DiffusionPurifier(denoise, VP(), 0.1, gradient=Adjoint(), t_end=t_end)
            error = error_of(purifier, image(side=4, rows=4), noise)
            lines.append(
                f"{name:9s} t_end {t_end:.0e}: relative {error.relative.median():8.4f} (median)  "
                f"cosine {error.cosine.median():.3f} (median)  sign agreement {error.sign_agreement.mean():.3f}"
            )
            if name == "std 0.1":
                assert 1e-6 < error.relative.median() < 0.02
                assert error.cosine.median() > 0.999
            if name == "std 0.02":
                assert error.relative.median() > 0.05  # not to be mistaken for the exact gradient
    with capsys.disabled():
        print("\nadjoint against the exact gradient (Euler, dt 1e-3, t* 0.1)", *lines, sep="\n  ")


def test_adjoint_error_falls_with_the_step():
    """It is the discretisation's: with steps ten times finer it is several times smaller."""
    errors = []
    for steps in (20, 200):
        purifier = DiffusionPurifier(mixture(0.1), VP(), 0.1, steps, gradient="adjoint", t_end=5e-3)
        errors.append(float(error_of(purifier, image(side=4), NOISE).relative.mean()))
    assert errors[1] < errors[0] / 4


def test_adjoint_reaches_the_context():
    """With a frozen start the only way from image to result is the context, and the error falls with the step."""

    class ContextOnly(GuidedPurifier):
        def diffused(self, x0, noise, t):
            return super().diffused(x0, noise, t).detach()

    errors = []
    for steps in (20, 200):
        purifier = ContextOnly(mixture(0.3), VP(), 0.1, steps, gradient="adjoint", t_end=5e-3)
        errors.append(float(error_of(purifier, image(side=4), NOISE).relative.mean()))
    assert errors[1] < min(0.02, errors[0] / 4)


def test_adjoint_does_not_depend_on_the_batch():
    noise = Noise.of(0, torch.arange(5))
    x = image(torch.float32, side=4, rows=5)
    purifier = DiffusionPurifier(mixture(0.1, torch.float32), VP(), 0.1, steps=10, gradient="adjoint")
    whole = gradient_of(purifier, x, noise)
    parts = [gradient_of(purifier, x[s], noise.rows(s)) for s in (slice(0, 2), slice(2, 5))]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-4, atol=1e-6)


def test_adjoint_options():
    own = Adjoint(dt=5e-3, t_end=2e-3, adjoint_method="euler")
    deployed = DiffusionPurifier(mixture(0.3), VP(), 0.1, gradient=own)
    same_grid = DiffusionPurifier(mixture(0.3), VP(), 0.1, gradient=Full(), t_end=2e-3)
    same_grid.grid = TimeGrid.uniform(0.1, 2e-3, dt=5e-3)
    x = image(side=4)
    torch.testing.assert_close(deployed(x.clone().requires_grad_(), NOISE), same_grid(x, NOISE), rtol=1e-9, atol=1e-9)
    assert not torch.equal(deployed(x, NOISE), same_grid(x, NOISE))
    error = GradientError.between(gradient_of(deployed, x), gradient_of(same_grid, x))
    assert error.cosine.min() > 0.9


@pytest.mark.parametrize("solver", ["ddim", Ancestral(), "probability_flow_heun"])
def test_adjoint_of_another_solver_is_refused(solver):
    with pytest.raises(ValueError, match="Euler-Maruyama"):
        DiffusionPurifier(mixture(0.1), VP(), 0.1, solver=solver, gradient="adjoint")


def test_bpda_is_the_identity():
    purifier = DiffusionPurifier(mixture(0.1), VP(), 0.1, steps=5, gradient="bpda")
    leaf = image(side=4).requires_grad_()
    result = purifier(leaf, NOISE)
    weight = torch.randn_like(result)
    (gradient,) = torch.autograd.grad(result, leaf, weight)
    assert torch.equal(gradient, weight)
    assert torch.equal(result, purifier(leaf.detach(), NOISE))
    assert not torch.equal(result, leaf)
    with torch.no_grad():
        assert purifier(leaf, NOISE).grad_fn is None


def test_surrogate_is_the_coarse_process_only_while_recording():
    surrogate = DiffusionPurifier(mixture(0.1), VP(), 0.1, gradient=Surrogate(5))
    coarse = DiffusionPurifier(mixture(0.1), VP(), 0.1, steps=5, gradient="full")
    deployed = DiffusionPurifier(mixture(0.1), VP(), 0.1)
    x = image(side=4)
    assert torch.equal(surrogate(x, NOISE), deployed(x, NOISE))
    assert torch.equal(surrogate(x.clone().requires_grad_(), NOISE), coarse(x, NOISE))
    assert torch.equal(gradient_of(surrogate, x), gradient_of(coarse, x))
    assert not torch.equal(coarse(x, NOISE), deployed(x, NOISE))
    with pytest.raises(ValueError, match="fewer steps"):
        DiffusionPurifier(mixture(0.1), VP(), 0.1, steps=5, gradient=Surrogate(5))


@pytest.mark.parametrize("steps", [None, 3])
def test_surrogate_by_another_solver(steps):
    surrogate = DiffusionPurifier(mixture(0.1), VP(), 0.1, 6, gradient=Surrogate(steps, solver="ddim"))
    other = DiffusionPurifier(mixture(0.1), VP(), 0.1, steps or 6, "ddim")
    deployed = DiffusionPurifier(mixture(0.1), VP(), 0.1, 6)
    x = image(side=4)
    assert torch.equal(surrogate(x, NOISE), deployed(x, NOISE))
    torch.testing.assert_close(surrogate(x.clone().requires_grad_(), NOISE), other(x, NOISE), rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient_of(surrogate, x), gradient_of(other, x), rtol=1e-9, atol=1e-12)
    assert not torch.equal(other(x, NOISE), deployed(x, NOISE))


class Still(Solver):
    """The identity, whose states do not have the schedule's marginals."""

    stochastic = False

    def __call__(self, step, x, denoise):
        return x


def test_invalid_surrogates_are_refused():
    with pytest.raises(ValueError, match="or None and another solver; got steps=None"):
        Surrogate(None)
    with pytest.raises(ValueError, match="a surrogate must not use torchsde as its solver"):
        Surrogate(None, solver="torchsde")
    with pytest.raises(ValueError, match="fewer steps than the deployed process, 5, or as many of another"):
        DiffusionPurifier(mixture(0.1), VP(), 0.1, 5, gradient=Surrogate(6, solver="ddim"))
    with pytest.raises(ValueError, match="no other solver stands in for Still"):
        DiffusionPurifier(mixture(0.1), VP(), 0.1, solver=Still(), gradient=Surrogate(None, solver="ddim"))
    with pytest.raises(ValueError, match="Euler-Maruyama"):
        DiffusionPurifier(mixture(0.1), VP(), 0.1, 6, gradient=Surrogate(3, "adjoint", "ddim"))


# ---- another gradient for a while ----


def test_differentiated_replaces_and_restores_the_mode():
    purifier, x = DiffusionPurifier(mixture(0.1), VP(), 0.1, 6), image(side=4)
    with purifier.differentiated("bpda") as deployed:
        assert deployed
        assert isinstance(purifier.gradient, BPDA)
    with purifier.differentiated(Surrogate(2)) as deployed:
        assert not deployed
        assert torch.equal(gradient_of(purifier, x), gradient_of(DiffusionPurifier(mixture(0.1), VP(), 0.1, 2), x))
    with pytest.raises(ValueError, match="a row of noise per image"), purifier.differentiated(Surrogate(2)):
        purifier(x[:1], NOISE)
    assert isinstance(purifier.gradient, Checkpoint)
    for gradient, deployed in (("adjoint", True), (Adjoint(t_end=1e-3), False), (Surrogate(2, "adjoint"), False)):
        with purifier.differentiated(gradient) as same:
            assert same is deployed
    with pytest.raises(ValueError, match="gradient must be one of"), purifier.differentiated("exact"):
        pass
    with pytest.raises(ValueError, match="fewer steps"), purifier.differentiated(Surrogate(6)):
        pass
    assert isinstance(purifier.gradient, Checkpoint)


def test_gradient_error_of_known_vectors():
    exact = torch.tensor([[3.0, 4.0], [1.0, 1.0]])
    error = GradientError.between(torch.tensor([[3.0, -4.0], [2.0, 2.0]]), exact)
    assert error.relative.tolist() == pytest.approx([8 / 5, 1.0])
    assert error.cosine.tolist() == pytest.approx([-7 / 25, 1.0])
    assert error.sign_agreement.tolist() == [0.5, 1.0]


def test_names():
    kinds = {"full": Full, "checkpoint": Checkpoint, "adjoint": Adjoint, "bpda": BPDA, "surrogate": Surrogate}
    assert {name: type(as_differentiation(name)) for name in kinds} == kinds
    with pytest.raises(ValueError, match="gradient must be one of full, checkpoint"):
        as_differentiation("exact")
    with pytest.raises(ValueError, match=r"steps.* >= 1"):
        Surrogate(0)
