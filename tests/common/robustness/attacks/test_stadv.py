"""StAdv against known optima, a second implementation, and the record of all its calls."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from common.noise import Noise
from common.robustness.attacks.stadv import StAdv, roughness
from common.robustness.classifiers import Classifier, NetworkClassifier
from common.robustness.losses import margin
from common.robustness.threats.norm_ball import ThreatModel
from common.robustness.threats.spatial import SpatialThreat
from tests.common.robustness.attacks.recorder import Recorder


def rows(n, seed=0):
    return Noise.of(seed, torch.arange(n))


def labels(n):
    return torch.zeros(n, dtype=torch.int64)


def random(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear(pixels, seed=0):
    """Two classes in float64, and the gradient of the margin against label 0."""
    layer = nn.Linear(pixels, 2, bias=False, dtype=torch.float64)
    layer.weight.data.copy_(2 * random(2, pixels, seed=seed) - 1)
    return NetworkClassifier(nn.Sequential(nn.Flatten(), layer)), (layer.weight[1] - layer.weight[0]).detach()


def extremes(threat, image):
    """Smallest and largest value of each pixel over its flow vectors, at corners or on the pixel grid.

    Nine steps each way contain both, for bounds of 0.4, 0.8 and 2 pixels.
    """
    steps = torch.linspace(-threat.eps, threat.eps, 9, dtype=torch.float64)
    pairs = torch.cartesian_prod(steps, steps)
    tried = [
        threat.warp(image, flow.view(1, 2, 1, 1).expand(len(image), 2, *image.shape[-2:])) for flow in pairs.unbind()
    ]
    return torch.stack(tried).amin(0), torch.stack(tried).amax(0)


@pytest.mark.parametrize("random_start", [False, True])
@pytest.mark.parametrize("eps", [0.1, 0.5])
def test_solves_linear_models_on_ramps(eps, random_start):
    """Each pixel has its own flow, so the optimum is separable; on a ramp every gradient points to it.

    Only pixels out of reach of the edge count. 120 Adam steps of 0.02 cover the range of the flow twice.
    """
    classifier, g = linear(64)
    inner = torch.zeros(8, 8, dtype=torch.float64)
    inner[2:6, 2:6] = 1
    classifier.network[1].weight.data.mul_(inner.flatten())
    g = g * inner.flatten()
    rises = random(3, 1, 8, 8).cumsum(2).cumsum(3)
    image, threat = rises / rises.amax((1, 2, 3), keepdim=True), SpatialThreat(eps)
    low, high = extremes(threat, image)
    slope = g.view(1, 1, 8, 8)
    best = (torch.where(slope > 0, high, low) * slope).sum((1, 2, 3))
    attack = StAdv(steps=120, learning_rate=0.02, smoothness=0, random_start=random_start)
    result = attack.search(classifier, image, labels(3), threat, rows(3))
    assert bool(threat.check(image, result.adv).all())
    gain, most = result.loss - (image * slope).sum((1, 2, 3)), best - (image * slope).sum((1, 2, 3))
    assert bool((gain >= 0.999 * most).all())
    assert bool((gain <= most * (1 + 1e-9)).all())


def test_reaches_most_of_the_optimum_on_any_image():
    """Values that rise and fall trap single pixels in local optima: a local search does not always reach the best."""
    classifier, g = linear(64)
    image, threat = random(6, 1, 8, 8, seed=3), SpatialThreat(0.2)
    low, high = extremes(threat, image)
    slope = g.view(1, 1, 8, 8)
    most = (torch.where(slope > 0, high, low) * slope - image * slope).sum((1, 2, 3))
    result = StAdv(smoothness=0).search(classifier, image, labels(6), threat, rows(6))
    share = (result.loss - (image * slope).sum((1, 2, 3))) / most
    assert float(share.mean()) > 0.7
    assert float(share.max()) <= 1 + 1e-9


@pytest.mark.parametrize("smoothness", [0.0, 0.03])
def test_steps_are_those_of_adam_on_the_objective(smoothness):
    """A second implementation: one graph from flow to objective, draw by draw, and Adam by its formula."""
    image, threat, eot, size = random(2, 1, 4, 4), SpatialThreat(0.3), 3, 0.05
    classifier, noise = Recorder(), rows(2)
    StAdv(steps=6, learning_rate=size, eot=eot, smoothness=smoothness, random_start=True)(
        classifier, image, labels(2), threat, noise
    )
    flow = threat.random_flow(image, noise.stream("start"))
    first, second = torch.zeros_like(flow), torch.zeros_like(flow)
    for step, (points, draws, _) in enumerate(classifier.calls):
        flow.requires_grad_()
        adv = threat.warp(image, flow)
        torch.testing.assert_close(points[::eot], adv.detach(), rtol=0, atol=1e-9)
        loss = torch.zeros(2, dtype=torch.float64)
        for b in range(2):
            for j in range(eot):
                logits = Recorder()(adv[b : b + 1], draws.rows(slice(b * eot + j, b * eot + j + 1)))
                loss[b] += (logits[0, 1] - logits[0, 0]) / eot
        g = torch.autograd.grad((loss - smoothness * roughness(flow)).sum(), flow)[0]
        first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2
        ahead = first / (1 - 0.9 ** (step + 1)) / ((second / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
        flow = (flow.detach() + size * ahead).clamp(-0.3, 0.3)
    assert classifier.differentiated == [True] * 6 + [False], "the last iterate is evaluated as well"


@pytest.mark.parametrize("eot", [1, 5])
def test_returns_the_image_with_the_highest_loss(eot):
    """The image on which the loss was measured, not the one a step later."""
    classifier, image, threat = Recorder(), random(6, 1, 4, 4, seed=1), SpatialThreat(0.4)
    attack = StAdv(steps=15, learning_rate=0.1, eot=eot, restarts=2, smoothness=0.05)
    result = attack.search(classifier, image, labels(6), threat, rows(6))
    losses = np.stack([(z[:, 1] - z[:, 0]).numpy().reshape(-1, eot).mean(1) for _, _, z in classifier.calls])
    assert losses.shape == (2 * 16, 6)
    best = losses.argmax(0)
    points = torch.stack([call[::eot] for call, _, _ in classifier.calls])
    assert torch.equal(result.adv, points[best, torch.arange(6)])
    np.testing.assert_allclose(result.loss.numpy(), losses.max(0), rtol=1e-12)
    assert len(set(best.tolist())) > 1
    assert any(b % 16 not in (0, 15) for b in best), "neither the first nor simply the last"
    assert result.queries.tolist() == [32 * eot] * 6
    assert result.curve.shape == (6, 32)


def test_first_start_is_the_image_and_restarts_are_random():
    classifier, image, threat = Recorder(), random(3, 1, 4, 4), SpatialThreat(0.4)
    StAdv(steps=2, eot=1, restarts=3)(classifier, image, labels(3), threat, rows(3))
    first, second, third = (classifier.calls[3 * restart][0] for restart in range(3))
    torch.testing.assert_close(first, image, rtol=0, atol=1e-12)
    assert all(bool((a != b).any()) for a, b in [(first, second), (second, third)])


def test_adversarial_images_are_independent_of_batch_and_chunks():
    attack, threat = StAdv(steps=8, eot=4, restarts=2), SpatialThreat(0.4)
    image, noise = random(7, 1, 4, 4), rows(7, seed=3)
    together = attack(Recorder(), image, labels(7), threat, noise)
    for parts in (torch.arange(7).split(1), torch.arange(7).split(3), [torch.arange(6, -1, -1)]):
        advs = [attack(Recorder(), image[p], labels(len(p)), threat, noise.rows(p)) for p in parts]
        assert torch.equal(torch.cat(advs)[torch.cat(list(parts)).argsort()], together)
    chunked = StAdv(steps=8, eot=4, restarts=2, chunk=5)(Recorder(), image, labels(7), threat, noise)
    assert torch.equal(chunked, together)


def test_deterministic_classifier_is_evaluated_once_a_step_and_stops_early():
    image, threat = random(8, 1, 4, 4), SpatialThreat(0.4)
    patient, hasty = Recorder(randomised=False), Recorder(randomised=False)
    result = StAdv(steps=10)(patient, image, labels(8), threat, rows(8))
    assert [len(points) for points, _, _ in patient.calls] == [8] * 11
    early = StAdv(steps=10, early_stop=True).search(hasty, image, labels(8), threat, rows(8))
    wrong = torch.stack([z.argmax(1) for _, _, z in patient.calls]).bool()
    assert torch.equal(early.broken, wrong.any(0))
    assert bool(early.broken.any())
    assert early.queries.tolist() == [int(w.int().argmax()) + 1 if w.any() else 11 for w in wrong.T]
    first = torch.stack([points for points, _, _ in patient.calls])[wrong.int().argmax(0), torch.arange(8)]
    assert torch.equal(early.adv[early.broken], first[early.broken])
    assert torch.equal(result[~early.broken], early.adv[~early.broken])


def test_misclassified_images_rank_above_higher_losses():
    """For a deterministic classifier. The loss of this test leads back to the label."""
    image, threat, classifier = random(8, 1, 4, 4), SpatialThreat(0.4), Recorder(randomised=False)
    attack = StAdv(steps=10, learning_rate=0.1, loss=lambda logits, label: -margin(logits, label))
    result = attack.search(classifier, image, labels(8), threat, rows(8))
    wrong = torch.stack([z.argmax(1) for _, _, z in classifier.calls]).bool()
    assert bool((wrong[0] & ~wrong[-1]).any())
    assert torch.equal(classifier(result.adv).argmax(1).bool(), wrong.any(0))


class Flat(Classifier):
    """Gradients that are zero for the first image and not finite for the second."""

    def forward(self, image, noise=None):
        assert bool(image.isfinite().all())
        u = image.flatten(1).sum(1)
        factor = torch.tensor([0.0, math.inf, 1.0], dtype=image.dtype)
        return torch.stack((torch.zeros_like(u), _Scaled.apply(u, factor)), 1)


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, u, factor):
        ctx.save_for_backward(factor)
        return u.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0], None


def test_unusable_gradients_are_counted_and_skipped():
    image, threat = random(3, 1, 4, 4), SpatialThreat(0.4)
    result = StAdv(steps=4, smoothness=0).search(Flat(), image, labels(3), threat, rows(3))
    assert result.dead.tolist() == [1, 1, 0]
    torch.testing.assert_close(result.adv[:2], image[:2], rtol=0, atol=1e-12)
    assert bool((result.adv[2] != image[2]).any())


def test_roughness_sums_over_neighbours():
    flow = 2 * random(2, 2, 3, 4) - 1
    expected = torch.zeros(2, dtype=torch.float64)
    for i in range(3):
        for j in range(4):
            for k, m in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
                if 0 <= k < 3 and 0 <= m < 4:
                    expected += (flow[:, :, i, j] - flow[:, :, k, m]).norm(dim=1)
    torch.testing.assert_close(roughness(flow), expected)
    plain = torch.full((1, 2, 3, 4), 0.3, requires_grad=True)
    assert float(roughness(plain).detach()) == 0
    assert not bool(torch.autograd.grad(roughness(plain).sum(), plain)[0].any()), "zero, not NaN, where nothing differs"


def test_smoothness_lowers_the_loss():
    """At the same bound; the returned loss does not include the roughness."""
    image, threat = random(20, 1, 4, 4), SpatialThreat(0.4)
    mean = [
        StAdv(eot=1, smoothness=w).search(Recorder(False), image, labels(20), threat, rows(20)).loss.mean()
        for w in (0.0, 0.3)
    ]
    assert mean[0] > mean[1] + 0.1


def test_breaks_digits_within_the_bound(digits_network):
    classifier, image, label = digits_network
    threat = SpatialThreat(0.25)
    adv = StAdv(steps=40)(classifier, image, label, threat, rows(len(image)))
    assert bool(threat.check(image, adv).all())
    assert float((classifier(image).argmax(1) == label).float().mean()) > 0.95
    assert float((classifier(adv).argmax(1) == label).float().mean()) < 0.1


def test_other_threats_and_invalid_settings_raise():
    with pytest.raises(ValueError, match=r"StAdv attacks within a flow, SpatialThreat\(eps\); the threat is ThreatMo"):
        StAdv().check(ThreatModel("inf", 0.1))
    StAdv().check(SpatialThreat())
    for setting, message in (
        ({"steps": 0}, "steps must be an integer >= 1; got 0"),
        ({"eot": 0}, "eot must be an integer >= 1; got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be a finite number > 0; got 0.0"),
        ({"smoothness": -1.0}, r"smoothness must be a finite number >= 0; got -1.0. None is 0.0025 / eps"),
        ({"loss": "hinge"}, "loss must be one of"),
        ({"chunk": 0}, "chunk, .* must be an integer >= 1; got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            StAdv(**setting)
