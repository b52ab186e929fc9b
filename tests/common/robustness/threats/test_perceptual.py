"""Perceptual threat with distances of known value; LPIPS against its formula on a network of random weights."""

import json
import math
from urllib.error import URLError

import pytest
import torch
import torchvision
from torch import nn

from common.records.fingerprint import settings
from common.robustness.threats.perceptual import LPIPS, Perceptual


class RootMeanSquare(nn.Module):
    """A distance of known value, with a parameter ``scale`` to freeze."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.scale, self.drop = nn.Parameter(torch.tensor(scale)), nn.Dropout(0.5)

    def forward(self, image, adv):
        return self.drop(self.scale * (adv - image).flatten(1).square().mean(1).sqrt())


def offset(image, *sizes):
    return image + torch.tensor(sizes).view(-1, 1, 1, 1)


def test_distance_is_the_metric():
    image = torch.full((4, 3, 8, 8), 0.5)
    threat = Perceptual(0.1, RootMeanSquare())
    adv = offset(image, 0.0, 0.05, 0.1, -0.1001)
    assert threat.distance(image, adv).dtype == torch.float64
    assert threat.distance(image, adv).tolist() == pytest.approx([0, 0.05, 0.1, 0.1001], abs=1e-6)
    assert threat.check(image, adv).tolist() == [True, True, True, False], "0.1 itself passes: 1e-4 of it is rounding"
    assert (threat.name, threat.eps) == ("RootMeanSquare", 0.1)


def test_check_refuses_values_outside_the_box_or_not_finite():
    image = torch.stack((torch.zeros(3, 8, 8), torch.ones(3, 8, 8), torch.ones(3, 8, 8), torch.ones(3, 8, 8)))
    adv = image.clone()
    adv[0, 0, 0, 0], adv[1, 0, 0, 0], adv[2, 0, 0, 0] = -1e-9, 1 + 1.2e-7, math.nan
    assert Perceptual(10, RootMeanSquare()).check(image, adv).tolist() == [False, False, False, True]


def test_a_metric_is_frozen_in_evaluation_mode_and_differentiable():
    metric = RootMeanSquare().train()
    image = torch.full((2, 1, 4, 4), 0.5)
    adv = offset(image, 0.1, 0.2).requires_grad_()
    distance = Perceptual(0.1, metric).distance(image, adv)
    assert not metric.training
    assert not metric.scale.requires_grad
    (slope,) = torch.autograd.grad(distance.sum(), adv)
    torch.testing.assert_close(slope, torch.full_like(slope, 1 / 16))


def test_wrong_metric_shapes_and_bounds_raise():
    class Mean(nn.Module):
        def forward(self, image, adv):
            return (image - adv).abs().mean()

    with pytest.raises(ValueError, match=r"one distance per image, \(B,\); Mean returned \(\) for 2 images"):
        Perceptual(0.1, Mean()).distance(torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 4))
    for eps in (0, -1, math.inf, math.nan):
        with pytest.raises(
            ValueError,
            match=r"eps, in the units of the metric, must be a finite number > 0; got|eps must be a finite number",
        ):
            Perceptual(eps)


@pytest.fixture
def random_weights(monkeypatch):
    """torchvision's SqueezeNet without a download: random features in place of ImageNet's."""
    original, made = torchvision.models.squeezenet1_1, []

    def squeezenet1_1(weights=None):
        assert weights is not None, "LPIPS requests the trained network"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            made.append(original(weights=None))
        return made[-1]

    monkeypatch.setattr(torchvision.models, "squeezenet1_1", squeezenet1_1)
    return made


def test_lpips_is_the_weighted_distance_of_normalised_features(random_weights):
    """Zhang et al., eq. 1: the sum over layers of the mean over places of |w (f/|f| - g/|g|)|^2, on scaled pixels."""
    generator = torch.Generator().manual_seed(0)
    image, adv = (torch.rand(3, 3, 40, 32, generator=generator) for _ in range(2))
    lpips = LPIPS("squeeze")
    result = lpips(image, adv)
    features = random_weights[0].features.eval()
    taken = (1, 4, 7, 9, 10, 11, 12)  # after these modules of SqueezeNet 1.1
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    layers = []
    for x in (image, adv):
        x, kept = (x - mean.view(-1, 1, 1)) / std.view(-1, 1, 1), []
        for number, module in enumerate(features):
            x = module(x)
            if number in taken:
                kept.append(x / (x.square().sum(1, keepdim=True) + 1e-8).sqrt())
        layers.append(kept)
    weights = [lpips._network().get_submodule(f"lin{n}")(torch.eye(f.shape[1])[:, :, None, None]).flatten()
               for n, f in enumerate(layers[0])]  # fmt: skip
    pairs = zip(*layers, weights, strict=True)
    expected = sum(((f - g).square() * w.view(-1, 1, 1)).sum(1).mean((1, 2)) for f, g, w in pairs)
    torch.testing.assert_close(result, expected, rtol=0.02, atol=0)  # its shift and scale are ImageNet's to two digits
    assert len(random_weights) == 1, "fetched once"


def test_lpips_is_zero_for_equal_images_and_independent_of_the_batch(random_weights):
    image, adv = torch.rand(4, 3, 32, 32), torch.rand(4, 3, 32, 32)
    lpips = LPIPS("squeeze")
    assert lpips(image, image).tolist() == [0] * 4
    together = lpips(image, adv)
    assert together.shape == (4,)
    assert bool((together > 0).all())
    torch.testing.assert_close(
        torch.cat([lpips(a, b) for a, b in zip(image.split(1), adv.split(1), strict=True)]), together
    )


def test_lpips_accepts_grey_and_small_images(random_weights):
    grey, other = torch.rand(2, 1, 8, 8), torch.rand(2, 1, 8, 8)
    lpips = LPIPS("squeeze", resize=32)
    same = lpips(grey.expand(-1, 3, -1, -1), other.expand(-1, 3, -1, -1))
    torch.testing.assert_close(lpips(grey, other), same)
    with pytest.raises(ValueError, match=r"at least 17 pixels a side; got \(2, 1, 8, 8\). For small"):
        LPIPS("squeeze")(grey, other)
    with pytest.raises(ValueError, match="1 or 3 channels"):
        LPIPS("squeeze")(torch.rand(1, 2, 32, 32), torch.rand(1, 2, 32, 32))


def test_weights_are_loaded_on_first_use_and_not_fingerprinted(random_weights):
    threat = Perceptual(0.05, LPIPS("squeeze"))
    before = json.dumps(settings(threat), sort_keys=True)
    assert not random_weights
    image = torch.rand(2, 3, 32, 32)
    assert bool(threat.check(image, image).all())
    assert json.dumps(settings(threat), sort_keys=True) == before
    assert not threat.metric.state_dict()
    assert settings(threat)["metric"]["net"] == "squeeze"
    assert Perceptual().name == "LPIPS"


def test_missing_weights_error_names_url_and_folder(monkeypatch):
    def vgg16(weights=None):
        raise URLError("no route to host")

    monkeypatch.setattr(torchvision.models, "vgg16", vgg16)
    image = torch.rand(1, 3, 32, 32)
    message = (
        r"LPIPS\('vgg'\) needs torchvision's ImageNet weights .* no route to host.* Put https://.*vgg16-.*\.pth into "
    )
    with pytest.raises(RuntimeError, match=message):
        Perceptual().distance(image, image)


def test_lpips_settings_are_checked():
    with pytest.raises(ValueError, match="net must be one of vgg, alex, squeeze; got 'resnet'"):
        LPIPS("resnet")
    with pytest.raises(ValueError, match="resize, in pixels for vgg, must be an integer >= 16; got 8"):
        LPIPS(resize=8)
