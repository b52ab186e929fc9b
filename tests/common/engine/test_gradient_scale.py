"""Gradients in float16: those far below its range survive, to its rounding, row by row."""

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad

from common.engine.engine import Engine
from common.engine.gradient_scale import GradientScale, _power
from common.noise import Noise
from tests.defences import agdm, batch, diffpure


class Body(nn.Module):
    """Two outputs of one hidden layer."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(8, 16), nn.Linear(16, 4), nn.Linear(16, 2)

    def forward(self, x):
        h = self.first(x).tanh()
        return self.second(h), self.third(h)


def network():
    torch.manual_seed(0)
    return Body().requires_grad_(False)


X = torch.rand(3, 8, generator=torch.Generator().manual_seed(1))


def gradient(body, weights, of=lambda a, b: a.sum(1) + b[:, 0]):
    x = X.clone().requires_grad_()
    return torch.autograd.grad((weights * of(*body(x))).sum(), x)[0]


@pytest.mark.parametrize("size", [1.0, 1e-12, 1e-30, 1e20])
def test_a_tiny_gradient_survives(size):
    body = network()
    weights = size * torch.tensor([1.0, -3e-5, 1e-3])
    exact = gradient(body, weights)
    with Engine("16").applied(body):
        found = gradient(body, weights)
    assert found.dtype == torch.float32 and (found != 0).all()
    error, length = (each.double().norm(dim=1) for each in (found - exact, exact))
    assert (error < 5e-3 * length).all()


@pytest.mark.parametrize("leaf", [False, True])
def test_forward_mode_gives_the_derivative_of_both_outputs(leaf):
    """Also of an input that needs a gradient besides, whose own stays scaled."""
    body, tangent = network(), torch.randn(X.shape, generator=torch.Generator().manual_seed(2))
    _, exact = torch.func.jvp(body, (X,), (tangent,))
    x = X.clone().requires_grad_(leaf)
    with Engine("16").applied(body), forward_ad.dual_level():
        outputs = body(forward_ad.make_dual(x, tangent))
        found = [forward_ad.unpack_dual(each).tangent for each in outputs]
        if leaf:
            assert (torch.autograd.grad(1e-12 * outputs[0].sum(), x)[0] != 0).all()
    for each, other in zip(found, exact, strict=True):
        assert torch.allclose(each, other, atol=2e-3)


def test_forward_mode_along_one_of_two_inputs():
    """The other output has no tangent."""

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.eye(8))

        def forward(self, x, y):
            return x @ self.weight, y @ self.weight

    body, tangent = Two().requires_grad_(False), torch.ones(3, 8)
    with Engine("16").applied(body), forward_ad.dual_level():
        x, y = (X.clone().requires_grad_() for _ in range(2))
        one, other = map(forward_ad.unpack_dual, body(forward_ad.make_dual(x, tangent), y))
        assert torch.equal(one.tangent, tangent) and (other.tangent is None or not other.tangent.any())


def test_the_gradient_of_a_row_does_not_depend_on_the_others():
    body = network()
    with Engine("16").applied(body):
        first = gradient(body, torch.tensor([1e-9, 1.0, 0.0]))
        second = gradient(body, torch.tensor([1e-9, 1e12, 5.0]))
    assert torch.equal(first[0], second[0]) and not first[2].any()


def test_an_output_that_is_not_used_does_not_matter():
    body = network()
    weights = torch.full((3,), 1e-10)
    exact = gradient(body, weights, lambda a, b: b[:, 1])
    with Engine("16").applied(body):
        found = gradient(body, weights, lambda a, b: b[:, 1])
    torch.testing.assert_close(found, exact, rtol=0.02, atol=0)


def test_the_scale_is_a_power_of_two():
    largest = torch.tensor([1.0, 0.75, 3e-39, 1e38, 0.0, torch.inf, torch.nan])
    factor = _power(largest)
    assert torch.equal(torch.frexp(factor).mantissa, torch.full((7,), 0.5))
    scaled = (largest.double() * factor)[[0, 1, 3]]
    assert ((scaled >= 64) & (scaled < 128)).all() and (factor[4:] == 1).all() and factor.isfinite().all()


def test_an_overflow_is_seen():
    class Steep(Body):
        def forward(self, x):
            return (1000 * (1000 * self.first(x)),)

    body = Steep().requires_grad_(False)
    with Engine("16").applied(body):
        x = (1e-3 * X).requires_grad_()
        (found,) = torch.autograd.grad(body(x)[0].sum(), x)
    assert not found.isfinite().all()  # an attack leaves it out, and its record counts it as dead


def test_only_a_frozen_network_in_float16_is_scaled():
    body, x = network(), X.clone().requires_grad_()
    assert GradientScale.of(torch.float16, x, body, x) is not None
    assert GradientScale.of(torch.bfloat16, x, body, x) is GradientScale.of(None, x, body, x) is None
    assert GradientScale.of(torch.float16, x, body.requires_grad_(), x) is None
    with torch.no_grad():
        assert GradientScale.of(torch.float16, x, body.requires_grad_(False), x) is None


@pytest.mark.parametrize("defence", [diffpure, agdm])
def test_the_gradient_of_a_purification_is_that_of_float32(defence):
    """AGDM's guidance, which is differentiated twice, stays in float32."""
    classifier = defence().freeze()
    image, label, index = batch(2)
    twice = classifier.purifier.differentiated_twice

    def of(size):
        x = image.clone().requires_grad_()
        logits = classifier(x, Noise.of(0, index))
        return torch.autograd.grad(size * logits.gather(1, label[:, None]).sum(), x)[0] / size

    exact = of(1.0)
    with Engine("16").applied(classifier, twice):
        found = [of(size) for size in (1.0, 1e-9)]
    for each in found:
        assert (each - exact).norm() < 0.02 * exact.norm()


class Shifted(nn.Module):
    """A network whose rows share an input."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x, shift):
        return self.layer(x) + shift * x.mean()


def test_the_gradient_of_an_input_that_all_rows_share_is_not_scaled():
    torch.manual_seed(0)
    body, found = Shifted().requires_grad_(False), {}
    for precision in ("32", "16"):
        shift = torch.zeros(1, 8, requires_grad=True)
        with Engine(precision).applied(body):
            found[precision] = torch.autograd.grad(body(X.clone().requires_grad_(), shift).sum() * 1e-2, shift)[0]
    torch.testing.assert_close(found["16"], found["32"], rtol=5e-3, atol=0)


def test_functional_gradients_are_those_of_autograd():
    body = network()
    with Engine("16").applied(body):
        x = X.clone().requires_grad_()
        expected = torch.autograd.grad(body(x)[0].sum(), x)[0]
        assert torch.equal(torch.func.grad(lambda x: body(x)[0].sum())(X), expected)
