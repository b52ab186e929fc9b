"""Known draws: the attack runs on exactly the draw that is scored."""

import pytest
import torch

from common.noise import Noise
from common.robustness.attacks.known_noise import KnownNoise
from common.robustness.attacks.library import TorchAttacks
from common.robustness.attacks.pgd import PGD
from common.robustness.classifiers import Classifier
from common.robustness.evaluation.attacked import Attacked
from common.robustness.threats.norm_ball import ThreatModel

LINF = ThreatModel("inf", 0.1)


class Turned(Classifier):
    """Logit w_d . (x - 1/2) of class 1, with random signs w_d for each draw."""

    randomised = True

    def forward(self, image, noise=None):
        sign = torch.where(noise.uniform(0, (16,), image.dtype) < 0.5, -1.0, 1.0)
        along = ((image.flatten(1) - 0.5) * sign).sum(1)
        return torch.stack((torch.full_like(along, 1.0), along), 1)


def batch(n=6):
    return torch.full((n, 1, 4, 4), 0.5), torch.zeros(n, dtype=torch.int64), torch.arange(10, 10 + n)


def test_rows_are_selected_by_index():
    index = torch.tensor([14, 10, 15, 12, 11, 13])
    known = Noise.of(3, index).stream("score").draws(1, start=2)
    image = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    expected = Turned()(image, known)
    replayed = KnownNoise(Turned(), known)
    assert not replayed.randomised
    order = torch.tensor([5, 0, 3, 3])
    points = Noise.of(99, index).stream("attack").rows(order)
    torch.testing.assert_close(replayed(image[order], points), expected[order], rtol=0, atol=0)
    torch.testing.assert_close(replayed(image), expected, rtol=0, atol=0)
    with pytest.raises(ValueError, match="no draw is known"):
        replayed(image[:1], Noise.of(0, torch.tensor([7])))
    with pytest.raises(ValueError, match="must be the 6 known ones; got 2"):
        replayed(image[:2])
    with pytest.raises(ValueError, match="one row per image"):
        KnownNoise(Turned(), known.rows(torch.tensor([0, 0])))


def test_attack_on_known_noise_is_optimal():
    """The optimum for one draw is 16 eps = 1.6 > 1, which flips it; without the draw no image is better than chance."""
    blind, seeing = (
        Attacked(PGD(steps=4, eot=4 if knows == "model" else 1), LINF, draws=8, knows=knows)(Turned(), batch(12))
        for knows in ("model", "noise")
    )
    assert all(not any(record.correct) for record in seeing)
    assert sum(sum(record.correct) for record in blind) > 0.8 * 8 * 12
    assert all(record.knows == "noise" and len(record.predictions) == 8 for record in seeing)
    assert all(record.queries == 8 * 5 for record in seeing), "five queries of the loop for each draw"


def test_adversarial_images_are_independent_of_the_batch():
    evaluator = Attacked(PGD(steps=3), LINF, draws=3, knows="noise", keep_images=0)
    image, label, index = batch(5)
    together = evaluator(Turned(), (image, label, index))
    parts = [evaluator(Turned(), (image[i], label[i], index[i]))[0] for i in torch.arange(5).split(1)]
    assert together == parts


@pytest.mark.parametrize(
    ("name", "options"), [("PGD", {"alpha": 0.05}), ("APGD", {"steps": 10, "n_restarts": 3}), ("FAB", {"steps": 10})]
)
def test_library_attacks_run_one_image_at_a_time(name, options):
    """Two images are misclassified from the start and dropped at once, others later; all are broken at the end."""
    image, label, index = batch(6)
    known = Noise.of(3, index).stream("score").draws(1)
    classifier, noise = KnownNoise(Turned(), known), Noise.of(3, index).stream("attack")
    sign = torch.where(known.uniform(0, (16,)) < 0.5, -1.0, 1.0).view(6, 1, 4, 4)
    image = image + torch.tensor([0.08, 0.0, 0, 0.08, 0, 0]).view(6, 1, 1, 1) * sign
    assert (classifier(image, noise).argmax(1) == 1).tolist() == [True, False, False, True, False, False]
    attack = TorchAttacks(name, options)
    adv = attack(classifier, image, label, LINF, noise)
    assert bool((Turned()(adv, known).argmax(1) == 1).all())
    alone = [attack(classifier, image[i], label[i], LINF, noise.rows(i)) for i in torch.arange(6).split(1)]
    assert torch.equal(torch.cat(alone), adv)
