"""Muon: orthogonal steps of fixed relative length for kernels, Adam's steps for the rest, exact resuming."""

import math

import pytest
import torch
from torch import nn

from common.tasks.muon import Muon, orthogonalise


@pytest.mark.parametrize("shape", [(8, 30), (30, 8), (16, 16)])
def test_singular_values_are_near_one(shape):
    matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalise(matrix, rounds=8))
    assert 0.6 < float(values.min()) <= float(values.max()) < 1.3


def kernel_and_vector():
    torch.manual_seed(0)
    return nn.Parameter(torch.randn(4, 3, 3, 3)), nn.Parameter(torch.randn(5))


def test_a_kernel_moves_by_lr_relative_to_its_norm():
    kernel, _ = kernel_and_vector()
    kernel.grad = torch.randn_like(kernel)
    before = kernel.detach() * (2 / kernel.detach().norm())
    Muon([kernel], lr=0.1).step()
    assert float((kernel.detach() - before).norm()) == pytest.approx(0.1 * 2, rel=1e-5)


def test_the_iteration_is_the_quintic_of_each_singular_value():
    """Of a diagonal matrix, in five rounds: s -> 3.4445 s - 4.7750 s^3 + 2.0315 s^5, from s / |matrix|."""
    expected = [0.6, 0.8, 0.0]
    for _ in range(5):
        expected = [3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5 for s in expected]
    for columns in (3, 4):
        matrix = torch.zeros(3, columns, dtype=torch.float64)
        matrix[:, :3] = torch.diag(torch.tensor([3.0, 4.0, 0.0]))
        for given in (matrix, matrix.T):
            found = orthogonalise(given)
            assert found.shape == given.shape
            assert found.diagonal().tolist() == pytest.approx(expected, abs=1e-12)
            assert float(found.square().sum()) == pytest.approx(sum(s * s for s in expected), abs=1e-12)


def scaled_rotation(a, b):
    """A kernel whose singular values are equal, as are those of every sum: its orthogonalisation is a multiple."""
    return torch.tensor([[a, b], [-b, a]], dtype=torch.float64).view(2, 1, 1, 2)


def test_kernels_follow_the_nesterov_momentum():
    """Three steps in closed form: m <- mu m + g; W <- W sqrt(R) / |W| - lr sqrt(R) n / |n| with n = g + mu m."""
    gradients = [scaled_rotation(1.0, 0.5), scaled_rotation(-0.3, 2.0), scaled_rotation(0.2, -1.5)]
    weight = expected = torch.tensor([[0.4, -1.0], [2.0, 0.7]], dtype=torch.float64).view(2, 1, 1, 2)
    kernel, momentum = nn.Parameter(weight.clone()), torch.zeros_like(weight)
    optimizer = Muon([kernel], lr=0.1, momentum=0.6)
    for gradient in gradients:
        kernel.grad = gradient.clone()
        optimizer.step()
        momentum = 0.6 * momentum + gradient
        nesterov = gradient + 0.6 * momentum
        expected = expected * (math.sqrt(2) / expected.norm()) - 0.1 * math.sqrt(2) * nesterov / nesterov.norm()
        assert torch.allclose(kernel.detach(), expected, rtol=0, atol=1e-12)


def test_a_vector_moves_as_with_adam():
    _, vector = kernel_and_vector()
    other = nn.Parameter(vector.detach().clone())
    ours, adam = Muon([vector], vector_lr=0.01), torch.optim.Adam([other], lr=0.01, betas=(0.9, 0.98))
    for step in range(5):
        vector.grad = torch.randn(5, generator=torch.Generator().manual_seed(step))
        other.grad = vector.grad.clone()
        ours.step()
        adam.step()
    assert torch.allclose(vector, other, atol=1e-5)


def test_small_gradients_of_vectors_take_shorter_steps():
    """The first step in closed form: lr g / (|g| + eps / sqrt(1 - beta_2)), eps = 1e-8."""
    vector = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    vector.grad = torch.tensor([1e-7, -1.0], dtype=torch.float64)
    Muon([vector], vector_lr=0.01, betas=(0.9, 0.98)).step()
    expected = [-0.01 * g / (abs(g) + 1e-8 / math.sqrt(0.02)) for g in (1e-7, -1.0)]
    assert vector.tolist() == pytest.approx(expected, rel=1e-12)


def test_a_restored_state_resumes_bit_for_bit():
    def steps(optimizer, parameters, numbers):
        for step in numbers:
            generator = torch.Generator().manual_seed(step)
            for parameter in parameters:
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimizer.step()

    whole, parts = kernel_and_vector(), kernel_and_vector()
    steps(Muon(whole), whole, range(6))
    first = Muon(parts)
    steps(first, parts, range(3))
    second = Muon(parts)
    second.load_state_dict(first.state_dict())
    steps(second, parts, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))


def test_a_step_reduces_a_loss():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
    x, y = torch.randn(32, 1, 4, 4), torch.arange(32) % 2
    optimizer, losses = Muon(net.parameters()), []
    for _ in range(30):
        loss = nn.functional.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("arguments", [{"lr": 0.0}, {"vector_lr": math.inf}, {"momentum": 1.0}, {"betas": (0.9, 1.0)}])
def test_bad_rates_are_refused(arguments):
    with pytest.raises(ValueError, match=r"must be"):
        Muon(kernel_and_vector(), **arguments)
