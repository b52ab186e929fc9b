"""Suites are completed and checked; decisions, controls and cost are what they say."""

import pytest
import torch
from torch import nn

from common.engine.meter import Meter, networks
from common.noise import Noise
from common.robustness.attacks.pgd import PGD
from common.robustness.certification.smoothing import Smoothing
from common.robustness.classifiers import Classifier, NetworkClassifier
from common.robustness.evaluation.attacked import Attacked
from common.robustness.evaluation.clean_and_certified import Certified, Clean
from common.robustness.evaluation.decisions import decide, with_rule
from common.robustness.evaluation.suite import suite
from common.robustness.threats.norm_ball import ThreatModel
from common.robustness.threats.spatial import SpatialThreat
from common.robustness.voting import Voting

LINF = ThreatModel("inf", 0.1)


class Coin(Classifier):
    """Class 0 or 1 by a coin per draw, heavier towards the mean pixel; differentiable in the image."""

    randomised = True

    def forward(self, image, noise=None):
        lean = image.flatten(1).mean(1) - noise.uniform(0, (), image.dtype)
        return torch.stack((-lean, lean), 1)


class Duck:
    """The attributes of a certifier, without its checks."""

    sigma, num_classes, labelled = 0.25, 2, False

    def certify(self, classifier, image, noise):
        return []


def batch(n=4, seed=0):
    image = torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
    return image, torch.ones(n, dtype=torch.int64), torch.arange(n)


def test_the_threat_of_the_test_is_the_default():
    own = ThreatModel(2, 0.5)
    clean, first, second = suite([Clean(), Attacked(PGD(), name="a"), Attacked(PGD(), own, name="b")], LINF)
    assert isinstance(clean, Clean)
    assert (first.threat, second.threat) == (LINF, own)


def test_several_seeds_are_several_evaluators():
    ready = suite([Attacked(PGD(), LINF, seed=[3, 5, 7], name="pgd"), Clean(seed=(0, 1))])
    assert [(e.name, e.seed) for e in ready] == [
        ("pgd", 3),
        ("pgd", 5),
        ("pgd", 7),
        ("clean", 0),
        ("clean", 1),
    ]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: suite([]), "at least one evaluator"),
        (lambda: suite([Clean(), batch]), "must be Evaluators; got a function"),
        (lambda: suite([Clean]), r"must be Evaluators; .* Use Clean\(\)"),
        (lambda: Certified(None), "smoothing must be a Certifier; got a NoneType"),
        (lambda: Certified(Duck()), "smoothing must be a Certifier; got a Duck"),
        (lambda: Attacked(None, LINF), "attack must be an Attack or a function .* got a NoneType"),
        (lambda: Attacked(PGD, LINF), r"attack must be an Attack .* Use PGD\(\)"),
        (lambda: Attacked(PGD(), "inf"), "threat must be a Threat; got a str"),
        (lambda: suite([Attacked(PGD())], 0.1), "threat must be a Threat; got a float"),
        (lambda: suite([Clean(), Clean()]), "distinct names; got clean more than once"),
        (lambda: suite([Attacked(PGD())]), "attacks without a threat"),
        (lambda: Attacked(PGD(), LINF, draws=5, resubmissions=6), r"M must be in 1 \.\. draws N = 5.*got 6"),
        (lambda: Attacked(PGD(), LINF, resubmissions=0), "got 0"),
        (lambda: Attacked(PGD(), LINF, seed=[1, 1]), r"seeds must be distinct.*\[1, 1\]"),
        (lambda: Clean(seed=[]), "one or several"),
        (lambda: Attacked(PGD(), LINF, rule="majority"), "at least 2 for a vote; got 1"),
        (lambda: Clean(rule="single", votes=3), 'votes must be 1 for rule "single"'),
        (lambda: Clean(rule="dice", votes=3), "rule must be one of single, majority, mean_logit"),
        (lambda: Attacked(PGD(), LINF, knows="all"), "knows must be one of model, noise"),
        (lambda: Attacked(PGD(), LINF, limit=0), "limit must be an integer >= 1"),
        (lambda: Attacked(PGD(loss="nothing"), LINF), "loss must be one of"),
        (lambda: Attacked(PGD(eot=0), LINF), "eot must be an integer >= 1; got 0"),
    ],
)
def test_bad_suites_are_refused(make, message):
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


def test_a_suite_needs_single_seeds_to_run():
    with pytest.raises(ValueError, match="several seeds"):
        Clean(seed=[0, 1])(Coin(), batch())


def test_votes_are_fresh_draws_of_the_rule():
    image, label, index = batch(5)
    noise = Noise.of(4, index).stream("score")
    expected = torch.stack([Voting(Coin(), 7)(image, noise.draws(1, start=j)) for j in range(3)])
    decided = decide(with_rule(Coin(), "majority", 7), image, label, noise, 3)
    torch.testing.assert_close(decided, expected, rtol=0, atol=0)
    records = Clean(draws=3, seed=4, rule="majority", votes=7)(Coin(), (image, label, index))
    assert [record.predictions for record in records] == expected.argmax(-1).T.tolist()
    assert with_rule(Coin(), "single", 1).randomised


@pytest.mark.parametrize("norm", [1, 2, float("inf")])
def test_a_shuffled_perturbation_is_as_large_and_elsewhere(norm):
    """Inside [0.2, 0.8] with steps of 0.1 nothing is cut, so sizes agree to rounding in every norm."""
    image = 0.2 + 0.6 * batch(8)[0]
    adv = image + 0.1 * torch.randn(image.shape, generator=torch.Generator().manual_seed(1)).clamp(-1, 1)
    moved = LINF.random_like(image, adv, Noise.of(0, torch.arange(8)))
    size, expected = ((x - image).flatten(1).norm(norm, dim=1) for x in (moved, adv))
    torch.testing.assert_close(size, expected, rtol=1e-5, atol=1e-6)
    cosine = torch.cosine_similarity((moved - image).flatten(), (adv - image).flatten(), dim=0)
    assert abs(float(cosine)) < 0.35, "4 standard deviations of 128 random products"


def test_a_shuffled_perturbation_stays_in_the_box_and_keeps_its_size_at_the_edge():
    image, adv = torch.zeros(3, 1, 4, 4), torch.full((3, 1, 4, 4), 0.2)
    assert torch.equal(LINF.random_like(image, adv, Noise.of(0, torch.arange(3))), adv)


def test_the_random_control_of_a_warp_is_a_warp():
    threat, (image, _, index) = SpatialThreat(0.3), batch(3)
    moved = threat.random_like(image, image, Noise.of(0, index))
    assert bool(threat.check(image, moved).all())
    assert not torch.equal(moved, image)


def test_controls_have_as_many_queries_as_the_attacked_image():
    records = Attacked(PGD(steps=2, eot=2), LINF, draws=6, rule="mean_logit", votes=3, resubmissions=4)(Coin(), batch())
    for record in records:
        assert len(record.predictions) == len(record.clean_predictions) == len(record.random_predictions) == 6
        assert (record.resubmissions, record.knows) == (4, "model")
        assert record.queries == 3 * 2, "two steps and the last point, two draws each"
        assert len(record.curve) == 3
        assert record.broken or record.curve[0] == 1.0


def test_the_meter_counts_rows_of_networks_and_nothing_else():
    linear = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    classifier = Voting(NetworkClassifier(linear), 3)
    assert networks(classifier) == [linear]
    with Meter(classifier) as meter:
        classifier(batch(4)[0])
        classifier(batch(2)[0])
    cost = meter.cost(2)
    assert cost["evaluations"] == 3.0
    assert cost["seconds"] > 0 and cost["peak_bytes"] > 0
    classifier(batch(4)[0])
    assert meter.cost(1)["evaluations"] == 6, "not after the context"


def test_records_hold_their_cost():
    smoothing = Smoothing(0.25, n0=8, n=40, alpha=0.05, num_classes=2)
    classifier = NetworkClassifier(nn.Sequential(nn.Flatten(), nn.Linear(16, 2)))
    for evaluator, evaluations in ((Clean(), 1), (Certified(smoothing), 48)):
        assert all(r.cost.evaluations == evaluations for r in evaluator(classifier, batch(3)))
