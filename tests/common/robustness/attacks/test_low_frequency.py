"""Low-frequency attack: filters against their formula, the bound at every query, a known optimum, digits."""

import numpy as np
import pytest
import torch
from torch import nn

from common.noise import Noise
from common.robustness.attacks.filter_chain import FilterChain
from common.robustness.attacks.low_frequency import LowFrequency
from common.robustness.attacks.perceptual_search import within_bound
from common.robustness.classifiers import NetworkClassifier
from common.robustness.threats.norm_ball import ThreatModel
from common.robustness.threats.perceptual import Perceptual
from tests.common.robustness.attacks.recorder import Recorder


def rows(n, seed=0):
    return Noise.of(seed, torch.arange(n))


def labels(n):
    return torch.zeros(n, dtype=torch.int64)


def random(*shape, seed=0, dtype=torch.float64):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class RootMeanSquare(nn.Module):
    """L2 / sqrt(D): a bound with a known projection."""

    def forward(self, image, adv):
        return ((adv - image).flatten(1).square().mean(1) + 1e-24).sqrt() - 1e-12


class Features(nn.Module):
    """LPIPS on two random convolution layers: squared and averaged differences of normalised features."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        shapes = ((16, 1, 3, 3), (32, 16, 3, 3))
        self.filters = nn.ParameterList([torch.randn(s, generator=generator) / (9 * s[1]) ** 0.5 for s in shapes])

    def features(self, x):
        result, x = [], 2 * (x - 0.5)
        for weight in self.filters:
            x = nn.functional.conv2d(x, weight, padding=1).relu()
            result.append(nn.functional.normalize(x, dim=1, eps=1e-3))
        return result

    def forward(self, image, adv):
        pairs = zip(self.features(image), self.features(adv), strict=True)
        return sum((f - g).square().sum(1).mean((1, 2)) for f, g in pairs)


def test_filters_are_weighted_means_per_pixel():
    """Pixel by pixel: the weights are the softmax of theta, and the edge is repeated."""
    image = random(2, 3, 4, 5)
    chain = FilterChain(image, (3,), 0.9)
    theta = random(2, 9, 4, 5, seed=1)
    chain.filters[0].data.copy_(theta)
    chain.modifier.data.copy_(0.1 * random(2, 3, 4, 5, seed=2))
    moved, result = image + chain.modifier.detach(), chain(torch.arange(2))
    for i in range(4):
        for j in range(5):
            near = [
                (min(max(i + a, 0), 3), min(max(j + b, 0), 4), 3 * (a + 1) + b + 1)
                for a in (-1, 0, 1)
                for b in (-1, 0, 1)
            ]
            logit = torch.stack([theta[:, q, i, j] for _, _, q in near], 1)
            weight = logit.exp() / logit.exp().sum(1, keepdim=True)
            expected = sum(weight[:, [n]] * moved[:, :, k, m] for n, (k, m, _) in enumerate(near))
            torch.testing.assert_close(result[:, :, i, j].detach(), expected)


def test_initial_filters_are_close_to_the_identity():
    image = random(2, 3, 6, 6)
    start = FilterChain(image, (5, 7, 5, 3), 0.99)(torch.arange(2)).detach()
    assert float((start - image).abs().max()) < 1 - 0.99**4, "each of four filters moves a pixel by at most 1 % of one"
    plain = torch.full((1, 1, 6, 6), 0.3, dtype=torch.float64)
    chain = FilterChain(plain, (3,), 0.9)
    torch.testing.assert_close(chain.filters[0].detach().softmax(1)[0, 4], torch.full_like(plain[0, 0], 0.9))
    chain.filters[0].data.normal_()
    torch.testing.assert_close(chain(torch.arange(1)).detach(), plain)


def test_modifier_is_clamped_to_the_box():
    image = random(2, 1, 6, 6)
    chain = FilterChain(image, (3,), 0.9)
    chain.modifier.data.copy_(4 * random(2, 1, 6, 6, seed=1) - 2)
    chain.clamp_modifier()
    moved = image + chain.modifier.detach()
    assert float(moved.min()) >= -1e-15
    assert float(moved.max()) <= 1 + 1e-15


def test_within_bound_returns_points_close_to_the_bound():
    """Towards the image, to 0.97 .. 1 of eps; points inside do not move."""
    image = random(5, 1, 6, 6)
    way = random(5, 1, 6, 6, seed=1) - 0.5
    scale = torch.tensor([0.01, 0.3, 1.0, 1e-9, 1.0], dtype=torch.float64).view(-1, 1, 1, 1)
    threat = Perceptual(0.05, RootMeanSquare())
    adv = (image + scale * way).clamp(0, 1)
    distance = threat.distance(image, adv)
    distance[4] = torch.nan
    result = within_bound(threat, image, adv, distance, None)
    near = threat.distance(image, result)
    inside = distance <= 0.05
    assert inside.tolist() == [True, False, False, True, False]
    assert torch.equal(result[inside], adv[inside])
    assert bool((near <= 0.05).all())
    assert bool((near[~inside] >= 0.97 * 0.05).all())
    shares = ((result - image)[1:3] / (adv - image)[1:3]).flatten(1)
    assert float((shares - shares.mean(1, keepdim=True)).abs().max()) < 1e-9, "on the straight way"


@pytest.mark.parametrize(("box", "share"), [("inactive", 0.95), ("active", 0.9)])
def test_reaches_the_optimum_of_a_linear_model(box, share):
    """With the metric L2 / sqrt(D), the optimum is a multiple of g clamped to the box, without filters."""
    layer = nn.Linear(64, 2, bias=False, dtype=torch.float64)
    layer.weight.data.copy_(random(2, 64) - 0.5)
    classifier, g = NetworkClassifier(nn.Sequential(nn.Flatten(), layer)), (layer.weight[1] - layer.weight[0]).detach()
    image, eps = (0.4 + 0.2 * random(5, 1, 8, 8), 0.02) if box == "inactive" else (random(5, 1, 8, 8).round(), 0.2)
    threat = Perceptual(eps, RootMeanSquare())
    result = LowFrequency(steps=60).search(classifier, image, labels(5), threat, rows(5))
    for x, adv in zip(image.flatten(1), result.adv.flatten(1), strict=True):
        room = torch.where(g > 0, 1 - x, -x)
        ways = torch.logspace(-3, 3, 2000, dtype=torch.float64)[:, None] * g
        ways = torch.where(ways.abs() < room.abs(), ways, room)
        best = (ways[ways.square().mean(1).sqrt() <= eps] @ g).max()
        assert share < float((adv - x) @ g / best) < 1.01, "the multiples are 0.7 % apart"


@pytest.mark.parametrize("eot", [1, 5])
def test_iterates_are_allowed_and_the_best_is_returned(eot):
    classifier, image, threat = Recorder(), random(6, 1, 6, 6, seed=1), Perceptual(0.05, RootMeanSquare())
    result = LowFrequency(steps=15, eot=eot).search(classifier, image, labels(6), threat, rows(6))
    evaluated = torch.stack([call[::eot] for call, _, _ in classifier.calls])
    assert evaluated.shape[:2] == (16, 6), "the last one included"
    assert all(bool(threat.check(image, points).all()) for points in evaluated)
    losses = np.stack([(z[:, 1] - z[:, 0]).numpy().reshape(-1, eot).mean(1) for _, _, z in classifier.calls])
    best = losses.argmax(0)
    assert torch.equal(result.adv, evaluated[best, torch.arange(6)])
    np.testing.assert_allclose(result.loss.numpy(), losses.max(0), rtol=1e-12)
    assert len(set(best.tolist())) > 1
    assert result.queries.tolist() == [16 * eot] * 6


def test_adversarial_images_are_independent_of_batch_and_chunks():
    attack, threat = LowFrequency(steps=6, eot=3), Perceptual(0.05, RootMeanSquare())
    image, noise = random(5, 1, 6, 6), rows(5, seed=3)
    together = attack(Recorder(), image, labels(5), threat, noise)
    for parts in (torch.arange(5).split(1), torch.arange(5).split(2), [torch.arange(4, -1, -1)]):
        advs = [attack(Recorder(), image[p], labels(len(p)), threat, noise.rows(p)) for p in parts]
        torch.testing.assert_close(torch.cat(advs)[torch.cat(list(parts)).argsort()], together, rtol=0, atol=1e-12)
    chunked = LowFrequency(steps=6, eot=3, chunk=4)(Recorder(), image, labels(5), threat, noise)
    torch.testing.assert_close(chunked, together, rtol=0, atol=1e-12)


def test_deterministic_classifier_is_evaluated_once_a_step_and_stops_early():
    image, threat = random(6, 1, 6, 6), Perceptual(0.1, RootMeanSquare())
    patient, hasty = Recorder(randomised=False), Recorder(randomised=False)
    LowFrequency(steps=8)(patient, image, labels(6), threat, rows(6))
    assert [len(evaluated) for evaluated, _, _ in patient.calls] == [6] * 9
    early = LowFrequency(steps=8, early_stop=True).search(hasty, image, labels(6), threat, rows(6))
    wrong = torch.stack([z.argmax(1) for _, _, z in patient.calls]).bool()
    assert torch.equal(early.broken, wrong.any(0))
    assert bool(early.broken.any())
    assert early.queries.tolist() == [int(w.int().argmax()) + 1 if w.any() else 9 for w in wrong.T]


def test_breaks_digits_at_a_distance_where_noise_does_not(digits_network):
    classifier, image, label = digits_network
    threat = Perceptual(0.15, Features())
    result = LowFrequency(steps=40).search(classifier, image, label, threat, rows(len(image)))
    assert bool(threat.check(image, result.adv).all())
    noise = (image + 0.6 * random(*image.shape, dtype=torch.float32) - 0.3).clamp(0, 1)
    assert float(threat.distance(image, noise).min()) > 0.15
    assert float((classifier(noise).argmax(1) == label).float().mean()) > 0.85
    assert float((classifier(result.adv).argmax(1) == label).float().mean()) < 0.1
    assert result.dead.tolist() == [0] * len(image)


def test_other_threats_and_invalid_settings_raise():
    message = r"LowFrequency attacks within a perceptual distance, Perceptual\(eps, metric\); the threat is ThreatModel"
    with pytest.raises(ValueError, match=message):
        LowFrequency().check(ThreatModel("inf", 0.1))
    LowFrequency().check(Perceptual())
    for setting, message in (
        ({"steps": 0}, "steps must be an integer >= 1; got 0"),
        ({"kernels": (5, 4)}, r"kernels must be odd sizes of at least 3 pixels; got \[5, 4\]"),
        ({"kernels": ()}, "kernels must be a list of at least 1"),
        ({"filter_rate": 0.0}, "filter_rate must be a finite number > 0; got 0.0"),
        ({"penalty": -1.0}, "penalty must be a finite number > 0; got -1.0"),
        ({"identity": 1.0}, "identity, a share, must be a finite number > 0 and < 1; got 1.0"),
        ({"loss": "hinge"}, "loss must be one of"),
    ):
        with pytest.raises(ValueError, match=message):
            LowFrequency(**setting)
