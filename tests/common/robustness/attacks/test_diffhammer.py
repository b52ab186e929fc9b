"""DiffHammer: weights against their formulas, the limit of equal weights, a shared weakness."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from common.noise import Noise
from common.robustness.attacks.apgd import APGD
from common.robustness.attacks.attack import Attack, AttackResult
from common.robustness.attacks.diffhammer import DiffHammer
from common.robustness.attacks.diffhammer_weights import DrawWeights
from common.robustness.attacks.eot import EOTLoss
from common.robustness.attacks.known_noise import KnownNoise
from common.robustness.attacks.library import TorchAttacks
from common.robustness.attacks.pgd import PGD
from common.robustness.attacks.staged import Staged
from common.robustness.classifiers import Classifier, NetworkClassifier, Purified
from common.robustness.losses import margin
from common.robustness.padding import Padded
from common.robustness.threats.norm_ball import ThreatModel
from common.robustness.voting import Voting

F64 = torch.float64
LINF = ThreatModel("inf", 0.1)
IMAGE = 0.3 + 0.4 * torch.rand(3, 1, 2, 3, dtype=F64, generator=torch.Generator().manual_seed(1))
LABEL = torch.zeros(3, dtype=torch.int64)
NOISE = Noise.of(3, torch.tensor([5, 2, 9]))


class Bent(Classifier):
    """Smooth margin sum_p sin(3 x_p + shift_p) of pixels, with another shift for each draw."""

    randomised = True

    def forward(self, image, noise=None):
        x = image.flatten(1)
        along = torch.sin(3 * x + 2 * noise.normal(0, x.shape[1:], x.dtype)).sum(1)
        return torch.stack((torch.zeros_like(along), along), 1)


class Cleaner(nn.Module):
    """A purifier that mixes neighbours and adds noise; counts the rows with a recorded gradient."""

    def __init__(self, mixing=0.4):
        super().__init__()
        self.mixing, self.recorded = mixing, 0

    def forward(self, image, noise=None):
        self.recorded += len(image) if image.requires_grad else 0
        noisy = image + 0.2 * noise.normal(0, image.shape[1:], image.dtype)
        return noisy + self.mixing * torch.tanh(noisy.roll(1, -1))


class Fixed(Classifier):
    """A deterministic `Bent`."""

    def forward(self, image, noise=None):
        x = image.flatten(1)
        along = torch.sin(5 * x + torch.arange(6, dtype=x.dtype)).sum(1)
        return torch.stack((torch.zeros_like(along), along), 1)


@dataclass(frozen=True)
class Thrice(Attack):
    """The gradients at three fixed points, (3,B,...), returned as ``adv``."""

    loss: object = margin
    eot: int = 4
    chunk: int | None = None

    def search(self, classifier, image, label, threat, noise):
        eot = EOTLoss(classifier, label, noise, self.eot, self.chunk)
        estimates = [eot(image + shift, self.loss, f"{shift}") for shift in (0.0, 0.01, -0.02)]
        return AttackResult(torch.stack([estimate.gradient for estimate in estimates]), estimates[0].loss)


def single_draws(classifier, x, draws):
    """Margins (B,n) and their gradients (B,n,D), one draw at a time."""
    rows = x.repeat_interleave(4, 0).requires_grad_()
    losses = torch.cat([margin(classifier(rows[k : k + 1], draws.rows([k])), LABEL[:1]) for k in range(len(rows))])
    (gradient,) = torch.autograd.grad(losses.sum(), rows)
    return losses.detach().view(-1, 4).numpy(), gradient.view(len(x), 4, -1).numpy()


def step(r, norm, eps):
    length = {np.inf: 1.0, 2.0: np.linalg.norm(r), 1.0: np.abs(r).sum()}[norm]
    return eps * (np.sign(r) if norm == np.inf else r) / length


def weighed(losses, gradients, norm, eps, temperature, rounds):
    """Reference weights of one image by the docstring's formulas: losses (n,), gradients (n,D)."""
    reached = [[losses[j] + step(gradients[i], norm, eps) @ gradients[j] for j in range(4)] for i in range(4)]
    score = [sum(v if v > 0 else np.expm1(v) for v in row) for row in reached]
    first = int(np.argmax(score))
    r = gradients[first]
    for _ in range(rounds):
        w = 1 / (1 + np.exp(-(losses + gradients @ step(r, norm, eps)) / temperature))
        r = (w[:, None] * gradients).sum(0) / w.sum()
    return r, first


@pytest.mark.parametrize("norm", [np.inf, 2.0, 1.0])
@pytest.mark.parametrize(("temperature", "rounds", "memory"), [(1.0, 1, 0.0), (0.2, 3, 0.5)])
def test_gradient_matches_the_formulas(norm, temperature, rounds, memory):
    threat = ThreatModel(norm, 0.5)
    attack = DiffHammer(Thrice(), temperature, rounds, memory)
    received = attack.search(Bent(), IMAGE, LABEL, threat, NOISE).adv.flatten(2).numpy()
    before = None
    for t, shift in enumerate((0.0, 0.01, -0.02), start=1):
        losses, gradients = single_draws(Bent(), IMAGE + shift, NOISE.stream(f"{shift}").draws(4))
        r = np.stack([weighed(losses[b], gradients[b], norm, 0.5, temperature, rounds)[0] for b in range(3)])
        before = r if before is None else t**-memory * r + (1 - t**-memory) * before
        np.testing.assert_allclose(received[t - 1], before, rtol=1e-12, atol=1e-13)
    assert np.abs(received[2] - gradients.mean(1)).max() > 0.05 * np.abs(received[2]).max(), "not the EOT mean"


def test_grafting_uses_one_vector_jacobian_product_per_image():
    """g_j at the purified images in numpy, and the vector-Jacobian product of the chosen draw by torch."""
    cleaner = Cleaner()
    classifier = Purified(cleaner, Fixed())
    received = DiffHammer(Thrice(), 0.5, 2, 0.0, graft=True).search(classifier, IMAGE, LABEL, LINF, NOISE).adv[0]
    assert cleaner.recorded == 3 * 3, "of each image one draw, at each of three points"
    draws = NOISE.stream("0.0").draws(4)
    purified = cleaner(IMAGE.repeat_interleave(4, 0), draws).view(3, 4, -1)
    for b in range(3):
        points = purified[b].detach().requires_grad_()
        losses = margin(Fixed()(points.view(4, 1, 2, 3)), LABEL[:1].expand(4))
        (slopes,) = torch.autograd.grad(losses.sum(), points)
        r, first = weighed(losses.detach().numpy(), slopes.numpy(), np.inf, 0.1, 0.5, 2)
        x = IMAGE[b : b + 1].clone().requires_grad_()
        result = cleaner(x, draws.rows([4 * b + first]))
        (expected,) = torch.autograd.grad(result, x, torch.from_numpy(r).view_as(result))
        torch.testing.assert_close(received[b], expected[0], rtol=1e-12, atol=1e-13)


def test_grafting_is_exact_for_an_identity_purifier():
    classifier = Purified(Cleaner(mixing=0.0), Fixed())
    exact, grafted = (
        DiffHammer(PGD(steps=4, eot=4, loss="margin"), graft=graft).search(classifier, IMAGE, LABEL, LINF, NOISE)
        for graft in (False, True)
    )
    torch.testing.assert_close(grafted.adv, exact.adv, rtol=0, atol=1e-12)
    torch.testing.assert_close(grafted.loss, exact.loss, rtol=0, atol=1e-12)
    assert exact.queries.tolist() == [20] * 3
    assert grafted.queries.tolist() == [24] * 3, "one purification more at each step"


@pytest.mark.parametrize("attack", [PGD(steps=5, eot=4), PGD(steps=5, eot=4, loss="margin"), APGD(steps=6, eot=4)])
def test_equal_weights_equal_the_inner_attack(attack):
    found, plain = (
        each.search(Bent(), IMAGE, LABEL, LINF, NOISE) for each in (DiffHammer(attack, 1e12, memory=0.0), attack)
    )
    torch.testing.assert_close(found.adv, plain.adv, rtol=0, atol=1e-9)
    for name in ("loss", "curve", "dead"):
        torch.testing.assert_close(getattr(found, name), getattr(plain, name), rtol=0, atol=1e-9)
    assert torch.equal(found.queries, plain.queries)
    assert torch.equal(found.broken, plain.broken)
    assert not torch.equal(DiffHammer(attack, 0.1)(Bent(), IMAGE, LABEL, LINF, NOISE), plain.adv)


class Dilemma(Classifier):
    """Half of the draws break if all pixels rise by 0.05; the others never do, with a steep negative slope."""

    randomised = True

    def forward(self, image, noise=None):
        rise = (image - 0.5).flatten(1).mean(1)
        weak = noise.uniform(0, (), image.dtype) < 0.5
        along = torch.where(weak, 10 * (rise - 0.05), -50 * rise - 6)
        return torch.stack((torch.zeros_like(along), along), 1)


def test_finds_a_shared_weakness_that_the_mean_gradient_misses():
    """Slopes 10 and -50 in equal shares: the mean points down, where nothing breaks; the weak half has the weight."""
    image, label = torch.full((8, 1, 4, 4), 0.5), torch.zeros(8, dtype=torch.int64)
    noise = Noise.of(0, torch.arange(8))
    share = {}
    for name, attack in (
        ("mean", PGD(steps=10, eot=16, loss="margin")),
        ("hammer", DiffHammer(PGD(steps=10, eot=16, loss="margin"))),
    ):
        adv = attack(Dilemma(), image, label, LINF, noise.stream("attack"))
        logits = Dilemma()(adv.repeat_interleave(64, 0), noise.stream("score").draws(64))
        share[name] = float((logits.argmax(1) == 1).double().mean())
    weak = noise.stream("score").draws(64).uniform(0, ()) < 0.5
    assert share["mean"] == 0
    assert share["hammer"] == float(weak.double().mean()), "all that can be broken"


def test_adversarial_images_are_independent_of_batch_and_chunks():
    image = IMAGE.float()
    for graft, classifier in ((False, Bent()), (True, Padded(Purified(Cleaner(), Fixed())))):
        together = DiffHammer(PGD(steps=4, eot=4), graft=graft)(classifier, image, LABEL, LINF, NOISE)
        for chunk, sizes in ((None, [1, 2]), (4, [3]), (8, [3])):
            attack = DiffHammer(PGD(steps=4, eot=4, chunk=chunk), graft=graft)
            rows = torch.arange(3).split(sizes)
            parts = [attack(classifier, image[r], LABEL[r], LINF, NOISE.rows(r)) for r in rows]
            torch.testing.assert_close(torch.cat(parts), together, rtol=0, atol=2e-7)


def test_an_attack_that_calls_with_other_draws_is_refused():
    class Twice(Thrice):
        """Eight draws in place of four."""

        def search(self, classifier, image, label, threat, noise):
            classifier(image.repeat_interleave(8, 0).requires_grad_(), noise.draws(8))

    with pytest.raises(ValueError, match="4 of each; the attack inside called the classifier with other rows"):
        DiffHammer(Twice()).search(Bent(), IMAGE, LABEL, LINF, NOISE)


def test_draws_of_stages_are_counted_by_themselves():
    """The refinement takes twice as many draws as the climbs before."""
    counts = {"pool": 1, "pool_targets": 0, "pool_steps": 1, "draws": 4, "steps": 1, "refine_steps": 1}
    attack, seen = Staged(eot=2, refine_eot=4, **counts), []
    combine = DrawWeights.combine
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DrawWeights, "combine", lambda self, g: seen.append(g.shape[1]) or combine(self, g))
        DiffHammer(attack).search(Bent(), IMAGE, LABEL, LINF, NOISE)
    assert {*seen} == {2, 4}


@pytest.mark.parametrize("graft", [False, True])
def test_deterministic_classifier_has_one_draw(graft):
    """A weight of one."""
    classifier = KnownNoise(Purified(Cleaner(), Fixed()), NOISE)
    attack = PGD(steps=4, eot=4)
    found = DiffHammer(attack, memory=0.0, graft=graft).search(classifier, IMAGE, LABEL, LINF, NOISE)
    plain = attack.search(classifier, IMAGE, LABEL, LINF, NOISE)
    torch.testing.assert_close(found.adv, plain.adv, rtol=0, atol=1e-12)
    assert found.queries.tolist() == [9 if graft else 5] * 3


def test_draws_with_unusable_gradients_are_ignored():
    """A draw whose gradient is zero everywhere, and one whose gradient is not a number for one image."""

    class Partly(Bent):
        def forward(self, image, noise=None):
            flat, sick = (noise.draw % 4 == 0)[:, None], ((noise.draw % 4 == 1) & (noise.index == 2))[:, None]
            logits, x = super().forward(image, noise), image.flatten(1)[:, :1]
            steep = torch.where(sick, x - x.detach(), 1.0).sqrt()  # 0 with an infinite slope, or 1 with none
            return torch.where(flat, logits.detach(), logits) + torch.cat((torch.zeros_like(steep), steep), 1)

    found = DiffHammer(PGD(steps=4, eot=4)).search(Partly(), IMAGE, LABEL, LINF, NOISE)
    assert bool(found.adv.isfinite().all())
    assert found.dead.tolist() == [0, 0, 0]
    plain = PGD(steps=4, eot=4).search(Partly(), IMAGE, LABEL, LINF, NOISE)
    assert plain.dead.tolist() == [0, 1, 0], "in a mean one such draw spoils all"


@pytest.mark.parametrize(
    ("classifier", "message"),
    [
        (Bent(), "Bent has 0 and no vote"),
        (Voting(Purified(Cleaner(), Fixed()), 2), "Voting has 1 and a vote"),
        (Purified(Cleaner(), Purified(Cleaner(), Fixed())), "Purified has 2 and no vote"),
    ],
)
def test_grafting_raises_for_votes_and_several_purifiers(classifier, message):
    attack = DiffHammer(PGD(eot=2), graft=True)
    classifier.forward = lambda *_: pytest.fail("called")
    with pytest.raises(ValueError, match=message):
        attack(classifier, IMAGE, LABEL, LINF, NOISE)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attack": PGD()}, "needs eot >= 2; got 1"),
        ({"attack": PGD(eot=2, restarts=2)}, "use restarts=1"),
        ({"attack": PGD(eot=4, chunk=6)}, "chunk must be a multiple of eot, 4"),
        ({"temperature": 0.0}, "temperature must be a finite number > 0"),
        ({"rounds": 0}, "rounds must be an integer >= 1"),
        ({"memory": -0.5}, "memory must be a finite number >= 0"),
        ({"attack": TorchAttacks("EOTPGD")}, "must have a loss"),
        ({"attack": TorchAttacks("Square")}, "uses none"),
    ],
)
def test_invalid_settings_raise(settings, message):
    with pytest.raises(ValueError, match=message):
        DiffHammer(**{"attack": PGD(eot=2)} | settings)


def test_other_threats_raise():
    with pytest.raises(ValueError, match="DiffHammer attacks within a norm"):
        DiffHammer(PGD(eot=2)).check(object())


def test_networks_behind_several_kinds_of_purifier():
    """Grafted and exact gradients agree where the purifier is nearly the identity: cosine above 0.99."""
    layer = nn.Linear(6, 3, dtype=F64)
    layer.weight.data = torch.randn(3, 6, generator=torch.Generator().manual_seed(0), dtype=F64)
    classifier = Purified(Cleaner(mixing=0.02), NetworkClassifier(nn.Sequential(nn.Flatten(), layer)))
    received = [
        DiffHammer(Thrice(), memory=0.0, graft=graft).search(classifier, IMAGE, LABEL, LINF, NOISE).adv[0].flatten(1)
        for graft in (False, True)
    ]
    assert bool((nn.functional.cosine_similarity(*received) > 0.99).all())
