"""Shared layers against their definitions written out in NumPy and SciPy."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.signal import convolve2d

from common.diffusion.networks import layers
from common.engine.switch import REPEATABLE
from common.noise import Noise
from common.robustness import PGD, NetworkClassifier, ThreatModel

TAPS = [(1, 1), (1, 3, 3, 1), (1, 2, 5, 5, 2, 1)]


def image(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def lowpass(x: np.ndarray, taps: tuple[int, ...], gain: float = 1.0) -> np.ndarray:
    """Full convolution with the separable kernel, borders included."""
    f = np.array(taps, dtype=float) / sum(taps)
    return convolve2d(x, gain * np.outer(f, f), mode="full")


def zeros_between(x: np.ndarray) -> np.ndarray:
    out = np.zeros((2 * x.shape[0], 2 * x.shape[1]))
    out[::2, ::2] = x
    return out


@pytest.mark.parametrize("taps", TAPS)
def test_resampling_is_filtering_and_decimation(taps):
    x, half = image(2, 3, 6, 8), len(taps) // 2
    kernel = layers.resampling_kernel(taps).double()
    down, up = layers.downsample(x, kernel), layers.upsample(x, kernel)
    for row in range(2):
        for channel in range(3):
            plane = x[row, channel].numpy()
            # An even filter sits between two samples: the first output is centred between samples 0 and 1 ...
            np.testing.assert_allclose(down[row, channel], lowpass(plane, taps)[half:, half:][:6:2, :8:2], atol=1e-12)
            # ... and upwards the zero that follows a sample belongs to it.
            wide = lowpass(zeros_between(plane), taps, gain=4)[half - 1 :, half - 1 :][:12, :16]
            np.testing.assert_allclose(up[row, channel], wide, atol=1e-12)


@pytest.mark.parametrize("taps", TAPS)
def test_resampling_keeps_constants_and_is_adjoint(taps):
    kernel = layers.resampling_kernel(taps).double()
    flat = torch.full((1, 1, 12, 12), 3.0, dtype=torch.float64)
    inner = slice(3, -3)
    assert torch.allclose(layers.upsample(flat, kernel)[..., inner, inner], flat[..., :1, :1])
    assert torch.allclose(layers.downsample(flat, kernel)[..., 2:-2, 2:-2], flat[..., :1, :1])
    x, y = image(1, 2, 8, 8), image(1, 2, 4, 4)
    torch.testing.assert_close((layers.downsample(x, kernel) * y).sum(), (x * layers.upsample(y, kernel)).sum() / 4)


@pytest.mark.parametrize("taps", TAPS)
def test_fused_resampling_does_not_crop_in_between(taps):
    """One filter, the convolution of both, applied once; `scipy.signal.convolve2d` turns kernels, networks do not."""
    x, weight = image(1, 2, 6, 6), image(3, 2, 3, 3)
    kernel, reach = layers.resampling_kernel(taps).double(), len(taps) // 2
    down, up = layers.downsample_conv(x, weight, kernel), layers.upsample_conv(x, weight, kernel)
    for out in range(3):
        turned = [weight[out, c].numpy()[::-1, ::-1] for c in range(2)]
        whole = sum(convolve2d(lowpass(x[0, c].numpy(), taps), turned[c], mode="full") for c in range(2))
        np.testing.assert_allclose(down[0, out], whole[1 + reach :, 1 + reach :][:6:2, :6:2], atol=1e-12)
        whole = sum(
            convolve2d(lowpass(zeros_between(x[0, c].numpy()), taps, gain=4), turned[c], mode="full") for c in range(2)
        )
        np.testing.assert_allclose(up[0, out], whole[reach:, reach:][:12, :12], atol=1e-12)


def test_fused_and_separate_resampling_agree_inside():
    x, weight = image(1, 2, 16, 16), image(3, 2, 3, 3)
    kernel = layers.resampling_kernel((1, 3, 3, 1)).double()
    fused = layers.upsample_conv(x, weight, kernel)
    separate = torch.nn.functional.conv2d(layers.upsample(x, kernel), weight, padding=1)
    torch.testing.assert_close(fused[..., 2:-2, 2:-2], separate[..., 2:-2, 2:-2])
    assert (fused - separate).abs().max() > 1e-3


def test_embeddings():
    t = torch.tensor([0.0, 1.5, 700.25], dtype=torch.float64)
    for row, value in enumerate(t.tolist()):
        ho = [value * 10000 ** (-k / 3) for k in range(4)]
        adm = [value * 10000 ** (-k / 4) for k in range(4)]
        expected = [math.sin(p) for p in ho] + [math.cos(p) for p in ho]
        np.testing.assert_allclose(layers.sinusoidal(t, 8)[row], expected, atol=1e-12)
        expected = [math.cos(p) for p in adm] + [math.sin(p) for p in adm]
        np.testing.assert_allclose(layers.cosinusoidal(t, 8)[row], expected, atol=1e-12)
    f = torch.tensor([0.5, 3.0], dtype=torch.float64)
    expected = [math.sin(math.pi * 1.5), math.sin(9 * math.pi), math.cos(math.pi * 1.5), math.cos(9 * math.pi)]
    np.testing.assert_allclose(layers.fourier(t, f)[1], expected, atol=1e-12)


@pytest.mark.parametrize("fused", [False, True])
def test_attention_is_pytorchs_own(monkeypatch, fused):
    monkeypatch.setattr(layers, "_is_fused", lambda q: fused)
    q, k, v = image(3, 2, 5, 7)
    expected = torch.nn.functional.scaled_dot_product_attention(q.mT, k.mT, v.mT).mT
    torch.testing.assert_close(layers.attend(q, k, v), expected)
    inputs = [part[:1].clone().requires_grad_() for part in (q, k, v)]
    assert torch.autograd.gradcheck(layers.attend, inputs, fast_mode=True)
    assert fused or torch.autograd.gradgradcheck(layers.attend, inputs, fast_mode=True)


def test_attention_is_fused_on_cuda_but_for_networks_differentiated_twice():
    on_cuda, on_cpu = (SimpleNamespace(device=torch.device(kind)) for kind in ("cuda", "cpu"))
    assert layers._is_fused(on_cuda) and not layers._is_fused(on_cpu)
    with layers.twice_differentiable():
        assert not layers._is_fused(on_cuda)
    assert layers._is_fused(on_cuda)


def test_attention_is_written_out_in_an_attack():
    """The backward passes of fused attention add up in any order, so that records would not be repeatable."""
    on_cuda, fused = SimpleNamespace(device=torch.device("cuda")), []

    class Looking(NetworkClassifier):
        def forward(self, image, noise=None):
            fused.append(layers._is_fused(on_cuda))
            return super().forward(image, noise)

    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    batch = torch.full((2, 1, 2, 2), 0.5), torch.tensor([0, 1])
    PGD(steps=2).search(Looking(network), *batch, ThreatModel("inf", 0.1), Noise.of(0, torch.arange(2)))
    assert fused == [False] * 3 and layers._is_fused(on_cuda)


@pytest.mark.gpu
def test_gradients_of_an_attack_are_repeatable_on_cuda():
    q, k, v = (part.cuda().float().repeat(64, 8, 64).requires_grad_() for part in image(3, 2, 8, 16))
    with REPEATABLE.turned_on():
        first, second = (torch.autograd.grad(layers.attend(q, k, v).square().sum(), (q, k, v)) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("adaptive", [False, True])
def test_residual_branch_written_out(adaptive):
    torch.manual_seed(0)
    norm0, norm1 = layers.group_norm(8, 1e-5).double(), layers.group_norm(12, 1e-5).double()
    conv0, conv1 = torch.nn.Conv2d(8, 12, 3, padding=1).double(), torch.nn.Conv2d(12, 12, 3, padding=1).double()
    affine = torch.nn.Linear(5, 24 if adaptive else 12).double()
    x, emb = image(2, 8, 4, 4), image(2, 5)
    h = conv0(torch.nn.functional.silu(norm0(x)))
    level = affine(emb)[..., None, None]
    h = norm1(h) * (1 + level[:, :12]) + level[:, 12:] if adaptive else norm1(h + level)
    expected = conv1(torch.nn.functional.silu(h))
    branch = layers.residual_branch(x, emb, (norm0, conv0, affine, norm1, conv1), adaptive=adaptive)
    torch.testing.assert_close(branch, expected)


@pytest.mark.parametrize(("channels", "groups"), [(4, 1), (16, 4), (96, 24), (128, 32), (512, 32)])
def test_groups(channels, groups):
    assert layers.group_norm(channels, 1e-5).num_groups == groups


def test_group_norm_32_refuses_odd_widths():
    with pytest.raises(ValueError, match="multiples of 32; got 48"):
        layers.group_norm_32(48, 1e-5)


def test_levels():
    assert layers.levels_of(32, [1, 2, 2, 2]) == [32, 16, 8, 4]
    for resolution, mult in ((12, [1, 1, 1, 1]), (0, [1]), (8, [])):
        with pytest.raises(ValueError, match="halves the image"):
            layers.levels_of(resolution, mult)


def test_constructor_arguments_are_plain():
    def constructor(self, size, mult=(1, 2), name="x"):
        return layers.constructor_arguments(locals())

    assert constructor(None, 3) == {"size": 3, "mult": [1, 2], "name": "x"}
