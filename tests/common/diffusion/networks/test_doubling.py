"""Halving and doubling of sides against PyTorch's functions, in all precisions and memory orders."""

import pytest
import torch
from torch.nn import functional as F

from common.diffusion.networks.doubling import doubled, halved
from common.noise import Noise

ORDERS = [torch.contiguous_format, torch.channels_last]


def image(*shape, dtype=torch.float64):
    return Noise.of(1, torch.arange(2)).normal(0, shape, dtype)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("sides", [(6, 4), (5, 4), (4, 7)])
def test_means_of_blocks(order, sides):
    x = image(3, *sides).contiguous(memory_format=order)
    torch.testing.assert_close(halved(x), F.avg_pool2d(x, 2), rtol=0, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_means_in_half_precision(dtype):
    """No overflow, and at most two roundings."""
    x = 6e4 * image(3, 8, 8).tanh()
    error = (halved(x.to(dtype)).double() - F.avg_pool2d(x.to(dtype).double(), 2)).abs().max()
    assert error <= 2 * torch.finfo(dtype).eps / 2 * 6e4


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_pixels_become_blocks(order, dtype):
    x = image(3, 4, 6, dtype=dtype).contiguous(memory_format=order)
    assert torch.equal(doubled(x), F.interpolate(x, scale_factor=2.0, mode="nearest"))


@pytest.mark.parametrize("order", ORDERS)
def test_mixed_precision_keeps_the_dtype(order):
    x = image(3, 4, 4, dtype=torch.bfloat16).contiguous(memory_format=order)
    with torch.autocast("cpu", torch.bfloat16):
        assert doubled(x).dtype == halved(x).dtype == torch.bfloat16


@pytest.mark.parametrize("function", [halved, doubled])
def test_first_and_second_derivatives(function):
    x = image(1, 4, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: function(x).square(), x)
    assert torch.autograd.gradgradcheck(lambda x: function(x).square(), x)
