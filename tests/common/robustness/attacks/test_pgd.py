"""PGD against the known optimum of linear models, and its EOT statistics recomputed from all calls."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from torch import nn

from common.noise import Noise
from common.robustness.attacks.pgd import PGD
from common.robustness.classifiers import Classifier, NetworkClassifier
from common.robustness.threats.norm_ball import ThreatModel

LINF = ThreatModel("inf", 0.1)


def rows(n, seed=0):
    return Noise.of(seed, torch.arange(n))


def linear(dimension, classes=2, seed=0):
    """logits = W x, float64, and the gradient of the margin against label 0 (two classes)."""
    weight = torch.randn(classes, dimension, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    layer = nn.Linear(dimension, classes, bias=False, dtype=torch.float64)
    layer.weight.data.copy_(weight)
    return NetworkClassifier(nn.Sequential(nn.Flatten(), layer)), weight[1] - weight[0]


def largest_gain(g, image, norm, eps):
    """max g.d over ||d||_p <= eps, 0 <= image + d <= 1, for one image; numpy, by the optimality conditions."""
    g, room = np.abs(g), np.where(g > 0, 1 - image, image)
    if norm == math.inf:
        return float(g @ np.minimum(eps, room))
    if norm == 1:  # largest gain first
        order = np.argsort(-g)
        spent = np.concatenate(([0], np.cumsum(room[order])))[:-1]
        return float(g[order] @ np.clip(eps - spent, 0, room[order]))

    def excess(scale):  # d = min(scale g, room)
        return np.linalg.norm(np.minimum(scale * g, room)) - eps

    return float(g @ np.minimum(brentq(excess, 0, 1e6, xtol=1e-14) * g, room))


class Recorder(Classifier):
    """Two pixels; non-linear logits of pixel + shift(draw), so that steps overshoot. Stores its inputs."""

    randomised = True

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, image, noise=None):
        u = image.flatten(1) + 0.5 * noise.normal(0, (2,), image.dtype)
        logits = torch.stack((torch.zeros_like(u[:, 0]), torch.sin(9 * u[:, 0]) + torch.cos(7 * u[:, 1])), 1)
        self.calls.append((image.detach().clone(), noise, logits.detach()))
        return logits

    def mean_losses(self, eot):
        """(calls, B): the EOT-mean cross-entropy for label 0, from the recorded logits."""
        losses = [np.log1p(np.exp(logits[:, 1].double().numpy())) for _, _, logits in self.calls]
        return np.stack([loss.reshape(-1, eot).mean(1) for loss in losses])


def attack_record(pgd, n=6, seed=0):
    classifier, image = Recorder(), torch.rand(n, 1, 1, 2, generator=torch.Generator().manual_seed(seed))
    result = pgd.search(classifier, image, torch.zeros(n, dtype=torch.int64), LINF, rows(n, seed))
    return classifier, image, result


@pytest.mark.parametrize(("norm", "eps", "tolerance"), [("inf", 0.1, 1e-9), (2, 0.4, 0.01), (1, 1.5, 0.01)])
@pytest.mark.parametrize("box", ["inactive", "active"])
@pytest.mark.parametrize("random_start", [True, False])
def test_default_steps_solve_linear_models(norm, eps, tolerance, box, random_start):
    classifier, g = linear(48)
    image = torch.rand(10, 3, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    image = 0.45 + 0.1 * image if box == "inactive" and norm != 1 else image.round(decimals=1)
    threat = ThreatModel(norm, eps)
    pgd = PGD(loss="margin", random_start=random_start)
    adv = pgd(classifier, image, torch.zeros(10, dtype=torch.int64), threat, rows(10))
    assert bool(threat.check(image, adv).all())
    for d, x in zip((adv - image).flatten(1), image.flatten(1), strict=True):
        best = largest_gain(g.numpy(), x.numpy(), threat.norm, eps)
        assert (1 - tolerance) * best <= float(d @ g) <= best * (1 + 1e-9)


def test_cross_entropy_reaches_the_same_optimum_in_float32():
    classifier, g = linear(12)
    image = torch.rand(10, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    adv = PGD()(classifier.float(), image, torch.zeros(10, dtype=torch.int64), LINF, rows(10))
    torch.testing.assert_close(adv, (image + 0.1 * g.sign().view(3, 2, 2).float()).clamp(0, 1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("eot", [1, 3, 8])
def test_returns_the_iterate_with_the_highest_eot_mean_loss(eot):
    classifier, image, result = attack_record(PGD(steps=12, step_size=0.08, eot=eot, restarts=2))
    losses = classifier.mean_losses(eot)
    assert len(losses) == 2 * 13, "the last iterate is evaluated as well"
    best = losses.argmax(0)
    iterates = torch.stack([call[::eot] for call, _, _ in classifier.calls])
    assert torch.equal(result.adv, iterates[best, torch.arange(len(image))])
    np.testing.assert_allclose(result.loss.numpy(), losses.max(0), rtol=1e-5)
    assert len(set(best.tolist())) > 1
    assert bool((best % 13 != 12).any()), "not simply the last iterate"
    if eot > 1:
        last_draw = np.stack([logits[eot - 1 :: eot, 1].numpy() for _, _, logits in classifier.calls]).argmax(0)
        assert (last_draw != best).any(), "a single draw would have picked another"


def test_step_follows_the_mean_of_single_draw_gradients():
    """The point of the second call is the first step; its direction comes from gradients of single draws."""
    classifier, image, eot = Recorder(), torch.full((4, 1, 1, 2), 0.5, dtype=torch.float64), 5
    threat, label = ThreatModel(2, 0.1), torch.zeros(4, dtype=torch.int64)
    PGD(steps=1, step_size=0.05, eot=eot, random_start=False)(classifier, image, label, threat, rows(4))
    (_, draws, _), (second, _, _) = classifier.calls
    for b in range(4):
        gradients = []
        for j in range(eot):
            x = image[b : b + 1].clone().requires_grad_()
            row = draws.rows(slice(b * eot + j, b * eot + j + 1))
            assert row.index.item() == b, "rows are image-major"
            logits = Recorder()(x, row)
            gradients.append(torch.autograd.grad(torch.log1p(logits[:, 1].exp()).sum(), x)[0])
        g = torch.cat(gradients).mean(0)
        torch.testing.assert_close(second[b * eot], image[b] + 0.05 * g / g.norm(), atol=1e-12, rtol=0)


def test_steps_and_restarts_have_disjoint_draws():
    classifier, _, _ = attack_record(PGD(steps=4, eot=3, restarts=2))
    keys = [
        key
        for _, noise, _ in classifier.calls
        for key in zip([noise.seed] * len(noise), noise.index.tolist(), noise.draw.tolist(), strict=True)
    ]
    assert len(set(keys)) == len(keys) == 2 * 5 * 6 * 3
    assert all(noise.seed != rows(6).seed for _, noise, _ in classifier.calls)


@pytest.mark.parametrize("norm", [2, "inf"])
def test_adversarial_images_are_independent_of_batch_and_chunks(norm):
    pgd, image, noise = PGD(steps=8, eot=4), torch.rand(7, 1, 1, 2), rows(7, seed=3)
    label, threat = torch.zeros(7, dtype=torch.int64), ThreatModel(norm, 0.1)
    together = pgd(Recorder(), image, label, threat, noise)
    for parts in (torch.arange(7).split(1), torch.arange(7).split(3), [torch.arange(6, -1, -1)]):
        advs = [pgd(Recorder(), image[p], label[p], threat, noise.rows(p)) for p in parts]
        assert torch.equal(torch.cat(advs)[torch.cat(list(parts)).argsort()], together)
    for chunk in (1, 5, 1000):
        recorder = Recorder()
        assert torch.equal(PGD(steps=8, eot=4, chunk=chunk)(recorder, image, label, threat, noise), together)
        assert max(len(call) for call, _, _ in recorder.calls) == min(chunk, 28)


def test_more_draws_and_restarts_help_on_average():
    losses = [attack_record(PGD(steps=10, eot=16, restarts=r), n=40)[2].loss.mean() for r in (1, 4)]
    assert losses[1] > losses[0]


def test_restarts_have_different_starts():
    classifier, _, _ = attack_record(PGD(steps=2, eot=1, restarts=3))
    first, second, third = (classifier.calls[3 * restart][0] for restart in range(3))
    assert all(bool((a != b).any()) for a, b in [(first, second), (first, third), (second, third)])


def test_deterministic_classifier_is_evaluated_once_per_step():
    recorder = Recorder()
    recorder.randomised = False
    PGD(steps=3, eot=8)(recorder, torch.rand(2, 1, 1, 2), torch.zeros(2, dtype=torch.int64), LINF, rows(2))
    assert [len(call) for call, _, _ in recorder.calls] == [2] * 4


class Training(nn.Module):
    """A network whose outputs depend on training mode, with trainable parameters."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3))

    def forward(self, x):
        return self.layers(x)


def test_classifier_is_attacked_as_deployed_and_restored():
    classifier, image = NetworkClassifier(Training()), torch.rand(5, 1, 2, 2)
    state = {key: value.clone() for key, value in classifier.state_dict().items()}
    generator = torch.get_rng_state()
    with torch.no_grad():
        adv = PGD(steps=3, random_start=False)(classifier, image, torch.tensor([0, 1, 2, 0, 1]), LINF, rows(5))
        assert not torch.is_grad_enabled()
    assert not torch.equal(adv, image), "gradients were on"
    assert not adv.requires_grad
    assert classifier.training
    assert all(p.requires_grad and p.grad is None for p in classifier.parameters())
    assert all(torch.equal(value, state[key]) for key, value in classifier.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator), "no global randomness"


def test_autocast_is_off_inside_the_attack():
    class Precise(Classifier):
        def forward(self, image, noise=None):
            logits = image.flatten(1) @ torch.eye(4)
            assert logits.dtype == torch.float32
            return logits

    with torch.autocast("cpu", dtype=torch.bfloat16):
        PGD(steps=2)(Precise(), torch.rand(2, 1, 2, 2), torch.zeros(2, dtype=torch.int64), LINF, rows(2))


@pytest.mark.parametrize(
    "logits",
    [
        lambda x: x.detach().flatten(1),  # detached
        lambda x: nn.functional.one_hot(x.flatten(1).argmax(1), 4).float(),
        lambda x: torch.zeros(len(x), 4, requires_grad=True) + 1,  # a graph, but not to the image
    ],
)
def test_missing_gradient_raises(logits):
    class Cut(Classifier):
        def forward(self, image, noise=None):
            return logits(image)

    with pytest.raises(RuntimeError, match="no gradient reaches it"):
        PGD()(Cut(), torch.rand(2, 1, 2, 2), torch.zeros(2, dtype=torch.int64), LINF, rows(2))


def test_dead_gradients_are_counted_per_image():
    class Masked(Classifier):
        """A usable gradient for image 0, a zero one for image 1, an infinite one for image 2."""

        def forward(self, image, noise=None):
            x = image.flatten(1)
            return torch.cat((x[:1], 0 * x[1:2], (x[2:] - x[2:].detach()).sqrt()))

    image = torch.rand(3, 1, 2, 2)
    result = PGD(steps=5).search(Masked(), image, torch.zeros(3, dtype=torch.int64), LINF, rows(3))
    assert result.dead.tolist() == [0.0, 1.0, 1.0]
    assert bool(result.adv.isfinite().all())


def test_logits_that_are_never_finite_raise():
    class Broken(Classifier):
        def forward(self, image, noise=None):
            return image.flatten(1) * torch.tensor([1.0, math.nan]).view(2, 1)

    with pytest.raises(RuntimeError, match="1 of 2 images was never finite"):
        PGD()(Broken(), torch.rand(2, 1, 2, 2), torch.zeros(2, dtype=torch.int64), LINF, rows(2))


def test_inference_mode_and_missing_rows_raise():
    classifier, _ = linear(4)
    image, label = torch.rand(2, 1, 2, 2, dtype=torch.float64), torch.zeros(2, dtype=torch.int64)
    with torch.inference_mode(), pytest.raises(RuntimeError, match="inference mode is on"):
        PGD()(classifier, image, label, LINF, rows(2))
    with pytest.raises(ValueError, match="a row of noise per image; got 2 images, 3 rows"):
        PGD()(classifier, image, label, LINF, rows(3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps must be an integer >= 1; got 0"),
        ({"eot": 0}, "eot must be an integer >= 1"),
        ({"restarts": 0}, "restarts must be an integer >= 1"),
        ({"chunk": 0}, "chunk, .* must be an integer >= 1; got 0"),
        ({"step_size": 0.0}, "step_size must be"),
        ({"step_size": "two"}, "step_size must be a number or a ratio"),
        ({"loss": "hinge"}, "loss must be one of"),
    ],
)
def test_invalid_settings_raise(settings, message):
    with pytest.raises(ValueError, match=message):
        PGD(**settings)


def test_step_sizes_may_be_ratios_and_losses_functions():
    classifier, _ = linear(4)
    image, label = torch.full((1, 1, 2, 2), 0.5, dtype=torch.float64), torch.zeros(1, dtype=torch.int64)
    pgd = PGD(steps=1, step_size="2/255", loss=lambda logits, label: -logits[:, 1], random_start=False)
    adv = pgd(classifier, image, label, LINF, rows(1))
    weight = classifier.network[1].weight[1]
    torch.testing.assert_close((adv - image).flatten(), -(2 / 255) * weight.detach().sign())


@pytest.mark.parametrize(
    ("norm", "path", "direction"),
    [("inf", 2.5, "steepest"), ("inf", 2.5, "sign"), (2, 5.0, "steepest"), (2, 5.0, "sign"), (1, 20.0, "sign")],
)
def test_default_steps_add_up_to_the_path_of_the_norm(norm, path, direction):
    """The first of K steps from the middle of the box is a K-th of the path long, and does not leave the ball."""
    visited = []

    class Watched(Classifier):
        def forward(self, image, noise=None):
            visited.append(image.detach().clone())
            return torch.stack((-image.flatten(1).sum(1), image.flatten(1)[:, :3].sum(1)), 1)

    image, eps, steps = torch.full((1, 1, 4, 4), 0.5, dtype=torch.float64), 0.01, 40
    attack = PGD(steps=steps, random_start=False, direction=direction)
    attack.search(Watched(), image, torch.zeros(1, dtype=torch.int64), ThreatModel(norm, eps), rows(1))
    moved = (visited[1] - visited[0]).flatten(1).norm(p=float(norm), dim=1)
    assert float(moved) == pytest.approx(path * eps / steps, rel=1e-9)
