"""Spatial threat: warps in closed form, a check that accepts every warp, its exact limits for one channel."""

import math

import pytest
import torch

from common.noise import Noise
from common.robustness.threats.spatial import SpatialThreat


def generator(seed):
    return torch.Generator().manual_seed(seed)


def stress_images(kind, shape, seed=0, dtype=torch.float32):
    """Images that stress float32: random, steps of one between neighbours, smooth."""
    if kind == "random":
        return torch.rand(shape, generator=generator(seed), dtype=dtype)
    if kind == "black and white":
        return torch.rand(shape, generator=generator(seed)).round().to(dtype)
    down, across = torch.meshgrid(*(torch.linspace(0, 3, n, dtype=dtype) for n in shape[-2:]), indexing="ij")
    channels = torch.stack([0.5 + 0.5 * torch.sin((c + 1) * across + down) for c in range(shape[1])])
    return channels.expand(shape).contiguous()


def flows(threat, image, kind, seed=0):
    """Flows within the bound, (B,2,H,W): uniform, at its corners, constant, or sparse."""
    shape = (len(image), 2, *image.shape[-2:])
    if kind == "corners":
        return threat.eps * torch.randn(shape, generator=generator(seed)).sign().to(image)
    anywhere = threat.random_flow(image, Noise.of(seed, torch.arange(len(image))))
    if kind == "constant":
        return anywhere[..., :1, :1].expand(shape)
    return anywhere * (torch.rand(shape, generator=generator(seed)) < 0.2) if kind == "sparse" else anywhere


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 33 * 2**-22), (torch.float64, 1e-13)])
def test_zero_flow_is_the_identity(dtype, tolerance):
    """Up to the rounding of a position, about W 2^-23 pixels, times a slope of at most one."""
    image = stress_images("random", (2, 3, 20, 12), dtype=dtype)
    warped = SpatialThreat().warp(image, image.new_zeros(2, 2, 20, 12))
    torch.testing.assert_close(warped, image, rtol=0, atol=tolerance)


@pytest.mark.parametrize("pixels", [1, 2, -3])
@pytest.mark.parametrize("down", [False, True])
def test_integer_flows_shift_the_image(pixels, down):
    """A flow of 2 / size is one pixel, across and down; pixels from outside are zero."""
    image = stress_images("random", (2, 3, 10, 16), dtype=torch.float64)
    flow = image.new_zeros(2, 2, 10, 16)
    flow[:, int(down)] = pixels * 2 / (10 if down else 16)
    warped = SpatialThreat(1).warp(image, flow)
    from_where = torch.arange(10 if down else 16) + pixels
    expected = image.index_select(-2 if down else -1, from_where.clamp(0, len(from_where) - 1))
    outside = (from_where < 0) | (from_where >= len(from_where))
    expected = torch.where(outside[:, None] if down else outside, 0.0, expected)
    torch.testing.assert_close(warped, expected, rtol=0, atol=1e-12)


def test_fractional_flows_interpolate():
    image = stress_images("random", (1, 1, 4, 6), dtype=torch.float64)
    flow = image.new_zeros(1, 2, 4, 6)
    flow[:, 0] = 0.3 * 2 / 6
    after = torch.cat((image[..., 1:], image.new_zeros(1, 1, 4, 1)), -1)
    torch.testing.assert_close(SpatialThreat(1).warp(image, flow), 0.7 * image + 0.3 * after, rtol=0, atol=1e-12)


def test_a_warp_is_differentiable_in_the_flow():
    image = stress_images("random", (2, 2, 4, 5), dtype=torch.float64)
    flow = 0.05 + 0.1 * torch.rand(2, 2, 4, 5, generator=generator(0), dtype=torch.float64)  # off the pixel grid
    assert torch.autograd.gradcheck(lambda f: SpatialThreat(1).warp(image, f), flow.requires_grad_())


@pytest.mark.parametrize("kind", ["random", "black and white", "smooth"])
@pytest.mark.parametrize("eps", [0.05, 0.25, 1.0])
@pytest.mark.parametrize("shape", [(6, 1, 8, 8), (4, 3, 32, 32), (4, 2, 7, 12)])
def test_check_accepts_every_warp(kind, eps, shape):
    """In float32, also where eps is an integer number of pixels and rounding may reach the next one."""
    image, threat = stress_images(kind, shape), SpatialThreat(eps)
    for seed, made in enumerate(("anywhere", "corners", "constant", "sparse")):
        adv = threat.warp(image, flows(threat, image, made, seed)).clamp(0, 1)
        assert bool(threat.check(image, adv).all()), made
        if shape[-1] == 8:
            assert bool((threat.distance(image, adv) <= eps).all()), "what passes is nowhere measured as more"


def test_check_accepts_warps_of_large_images():
    image, threat = stress_images("black and white", (1, 3, 224, 160)), SpatialThreat(0.05)
    adv = threat.warp(image, flows(threat, image, "corners")).clamp(0, 1)
    assert bool(threat.check(image, adv))
    assert float(threat.distance(image, adv)) <= 0.05


def limits(threat, image):
    """Smallest and largest value of each pixel over a grid of flows, its border, and integer pixels."""
    height, width = image.shape[-2:]
    tried = []
    for size in (width, height):
        together = torch.arange(-size, size + 1) * 2 / size
        fine = torch.linspace(-threat.eps, threat.eps, 9, dtype=torch.float64)
        tried.append(torch.cat((fine, together[together.abs() <= threat.eps].double())))
    pairs = torch.cartesian_prod(*tried)
    constant = pairs[:, :, None, None].expand(len(pairs), 2, height, width)
    warped = threat.warp(image.expand(len(pairs), -1, -1, -1), constant)
    return warped.amin(0, keepdim=True), warped.amax(0, keepdim=True)


@pytest.mark.parametrize("eps", [0.1, 0.4, 0.55, 0.9])
@pytest.mark.parametrize("seed", range(3))
def test_check_is_exact_for_one_channel(eps, seed):
    """The extremes over all flows, by grid search, are allowed; slightly beyond them at one pixel is not."""
    image, threat = stress_images("random", (1, 1, 5, 6), seed, torch.float64), SpatialThreat(eps)
    low, high = limits(threat, image)
    for extreme, beyond in ((low, -1e-5), (high, 1e-5)):
        assert bool(threat.check(image, extreme))
        for pixel in torch.randperm(30, generator=generator(seed))[:10]:
            adv = extreme.clone().flatten()
            adv[pixel] += beyond
            adv = adv.view_as(image)
            if float(adv.min()) >= 0 and float(adv.max()) <= 1:
                assert not bool(threat.check(image, adv)), "1e-5 is above the slack of 12 2^-22"
                assert float(threat.distance(image, adv)) > eps


def test_pixels_beyond_the_edge_are_zero():
    image, adv = torch.full((1, 1, 8, 8), 0.5), torch.full((1, 1, 8, 8), 0.5)
    adv[0, 0, 0, 3] = 0.3  # 0.4 pixels up from the first row
    assert float(SpatialThreat(0.11).distance(image, adv)) == pytest.approx(0.1, rel=1e-4)
    assert bool(SpatialThreat(0.11).check(image, adv))
    assert not bool(SpatialThreat(0.09).check(image, adv))
    adv[0, 0, 4, 3] = 0.4
    assert not bool(SpatialThreat(0.7).check(image, adv)), "2.8 pixels from the middle no edge is in reach"


@pytest.mark.parametrize("moved", [0.02, 0.0625, 0.3])
def test_distance_of_a_shifted_ramp_is_the_shift(moved):
    """A ramp of slope 1/2 per unit of the grid: the slack of 65 2^-22 is a shift of 3.1e-5; bisection, 1.5e-5."""
    image = (torch.arange(32) / 32).expand(2, 1, 32, 32).contiguous()
    threat = SpatialThreat(0.05)
    flow = torch.zeros(2, 2, 32, 32)
    flow[:, 0, 12:16, :20] = moved
    adv = threat.warp(image, flow)
    assert threat.distance(image, adv).tolist() == pytest.approx([moved] * 2, rel=2e-5, abs=3.2e-5)
    assert threat.check(image, adv).tolist() == [moved <= 0.05] * 2


def test_distance_is_zero_for_the_image_and_infinite_for_missing_values():
    image = 0.2 + 0.5 * stress_images("random", (3, 3, 8, 8))
    adv = image.clone()
    adv[1, 0, 4, 4], adv[2, 0, 4, 4] = 0.8, math.nan
    assert SpatialThreat(0.05).distance(image, adv).tolist() == [0, math.inf, math.inf]
    assert SpatialThreat(1).check(image, adv).tolist() == [True, False, False]


def test_check_refuses_noise_and_values_outside_the_box():
    image = stress_images("smooth", (4, 3, 32, 32))
    adv = (image + 8 / 255 * torch.randn(image.shape, generator=generator(0)).sign()).clamp(0, 1)
    assert not bool(SpatialThreat(0.05).check(image, adv).any())
    white = torch.ones(2, 1, 8, 8)
    white[0, 0, 4, 4] += 1.2e-7
    assert SpatialThreat(0.05).check(torch.ones(2, 1, 8, 8), white).tolist() == [False, True]


def test_check_refuses_channels_that_move_apart():
    """A warped grey image stays grey, though each channel alone could have moved."""
    image = stress_images("random", (2, 1, 16, 16)).expand(2, 3, 16, 16)
    threat = SpatialThreat(0.05)
    left, right = (threat.warp(image[:, :1], torch.full((2, 2, 16, 16), shift)) for shift in (-0.04, 0.04))
    assert bool(threat.check(image, torch.cat((left, left, left), 1)).all())
    assert not bool(threat.check(image, torch.cat((left, right, left), 1)).any())


def test_random_flows_are_uniform_and_depend_on_the_image():
    threat, image = SpatialThreat(0.05), torch.rand(6, 3, 8, 8)
    noise = Noise.of(2, torch.arange(6))
    together = threat.random_flow(image, noise)
    assert together.shape == (6, 2, 8, 8)
    assert 0.049 < float(together.abs().max()) <= 0.05
    assert torch.equal(threat.random_flow(image[3:], noise.rows(slice(3, 6))), together[3:])
    assert not torch.equal(threat.random_flow(image, noise, 1), together)


def test_invalid_bounds_raise():
    assert (SpatialThreat("1/20").eps, SpatialThreat().name) == (0.05, "spatial")
    for eps in (0, -0.1, 1.1, math.nan):
        with pytest.raises(
            ValueError, match=r"units of the grid, 0 < eps <= 1, half the image; got|eps must be a finite number"
        ):
            SpatialThreat(eps)
