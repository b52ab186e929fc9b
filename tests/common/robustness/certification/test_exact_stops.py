"""Stops and bounds of certifiers at exact counts, in closed form."""

import math
from fractions import Fraction

import pytest
import torch
from scipy.stats import norm

from common.noise import Noise
from common.records.schema import ABSTAIN
from common.robustness.certification.binomial import needed_count, needed_probability
from common.robustness.certification.sequential import Sequential
from common.robustness.certification.smoothing import Smoothing
from common.robustness.certification.staged import stage_sizes
from tests.common.robustness.certification.scripted import Scripted, certify

SIGMA = 0.5


def ladder(**settings):
    common = {"n0": 10, "n": 400, "alpha": 0.05, "num_classes": 2, "first": 100, "futility": 0.0}
    return Sequential(SIGMA, **{**common, "targets": (0.25,), **settings})


def test_sampling_ends_once_the_target_is_out_of_reach():
    """Of 400 samples k* must agree. With k* - 300 after 100 they still may, and do; with one fewer it ends there."""
    procedure = ladder(targets=(0.3,))
    assert procedure.stages == [100, 200, 400]
    needed = needed_count(SIGMA, 0.3, 400, 0.05 / 3)
    least = needed - 300
    assert 0 < least < 50
    reached = certify(procedure, [1] * 10, [1] * least, [0] * (100 - least), [1] * 300)
    assert (reached.samples, reached.count) == (400, needed) and reached.radius >= 0.3
    given_up = certify(procedure, [1] * 10, [1] * (least - 1), [0] * (101 - least))
    assert (given_up.samples, given_up.count, given_up.prediction) == (100, least - 1, ABSTAIN)


def test_the_largest_bound_of_all_stages_certifies():
    """All of 100 agree, which does not reach the second target; the next 100 do not, and nothing can mend that."""
    found = certify(ladder(targets=(0.25, 1.0)), [1] * 110, [0] * 100)
    assert found.samples == 200
    assert found.radius == pytest.approx(SIGMA * norm.ppf((0.05 / 3) ** (1 / 100)), abs=1e-12)  # P(all agree) = p^100


def test_a_target_is_certified_by_exactly_the_needed_probability():
    procedure = ladder(targets=(0.25, 0.75))
    first, second = (needed_probability(SIGMA, radius) for radius in (0.25, 0.75))
    counts = [needed_count(SIGMA, radius, 400, 0.05 / 3) - 200 for radius in (0.25, 0.75)]
    for p_lower, least in ((first - 1e-9, counts[0]), (first, counts[1]), (second - 1e-9, counts[1])):
        assert procedure._continues(least, 200, p_lower) and not procedure._continues(least - 1, 200, p_lower)
    assert not procedure._continues(200, 200, second) and not procedure._continues(400, 400, 0.0)


def test_the_largest_target_is_that_of_the_bound_at_each_stage():
    """All 400 agree: the bound is (alpha / 3)^(1/400), not alpha^(1/400). Targets have six digits."""
    radius = SIGMA * float(norm.ppf((0.05 / 3) ** (1 / 400)))
    below, above = (round(end(1e5 * radius) / 1e5, 5) for end in (math.floor, math.ceil))
    assert certify(ladder(targets=(below,)), [1] * 410).radius == pytest.approx(radius, abs=1e-12)
    with pytest.raises(ValueError, match=r"400 samples at sigma 0\.5 certify at most"):
        ladder(targets=(above,))
    assert SIGMA * norm.ppf(0.05 ** (1 / 400)) > above
    assert needed_probability(SIGMA, 0.0) > 0.5


def test_the_samples_that_select_the_class_are_tested_at_the_bound_of_each_stage():
    """As few votes as have a chance of at least 0.2 at k* / n, by its exact sum, are enough to go on, one fewer not."""
    n0, futility = 400, 0.2
    procedure, needed = ladder(n0=n0, futility=futility), needed_count(SIGMA, 0.25, 400, 0.05 / 3)
    p, chance, least = Fraction(needed, 400), Fraction(0), -1
    while chance < futility:
        least += 1
        chance += math.comb(n0, least) * p**least * (1 - p) ** (n0 - least)
    assert certify(procedure, [1] * least, [0] * (n0 - least), [1] * 100).samples == 100
    assert certify(procedure, [1] * (least - 1), [0] * (n0 + 1 - least)).samples == 0


@pytest.mark.parametrize("size", [10, 100])
@pytest.mark.parametrize("futility", [0.01, 0.2])
def test_futility_is_a_binomial_test_of_the_needed_share(size, futility):
    """Sampling goes on while as few agreements have a chance of at least ``futility`` at k* / n, by its exact sum."""
    procedure, needed = ladder(futility=futility), 300
    p, chance, found = Fraction(needed, 400), Fraction(0), []
    for count in range(size + 1):
        chance += math.comb(size, count) * p**count * (1 - p) ** (size - count)
        found.append(procedure._is_likely(count, size, needed))
        assert found[-1] == (chance >= futility)
    assert {*found} == {False, True}


def test_without_a_futility_level_another_class_than_the_label_still_ends():
    image, noise = torch.zeros(2, 1, 1, 1), Noise.of(0, torch.arange(2))
    classifier = Scripted([1] * 20, [1] * 400)
    one, two = ladder(labelled=True).certify(classifier, image, noise, torch.tensor([0, 1]))
    assert one.samples == 0 and one.prediction == ABSTAIN and two.samples > 0


@pytest.mark.parametrize(
    ("first", "growth", "last", "sizes"),
    [(24, 1.6, 100, [24, 39, 63, 100]), (60, 2.0, 240, [60, 120, 240]), (1, 1.1, 4, [1, 2, 3, 4]), (7, 3.0, 7, [7])],
)
def test_stages_grow_by_a_factor_rounded_up(first, growth, last, sizes):
    assert stage_sizes(first, growth, last) == sizes


def test_smoothing_abstains_at_exactly_one_half():
    smoothing = Smoothing(SIGMA, n0=10, n=100, num_classes=2)
    assert smoothing.certificate(1, 0.5, 60, 100).prediction == ABSTAIN
    found = smoothing.certificate(1, 0.5 + 1e-9, 60, 100)
    assert found.prediction == 1 and found.radius == pytest.approx(SIGMA * 1e-9 * math.sqrt(2 * math.pi), rel=1e-6)


def test_the_least_number_of_samples_is_that_whose_unanimity_certifies():
    """All of n agree: the bound is alpha^(1/n), above 1/2 if alpha > 2^-n."""
    settings = {"n0": 1, "num_classes": 2}
    with pytest.raises(ValueError, match="Raise n to 11 or more"):
        Smoothing(SIGMA, n=10, alpha=0.5**10, **settings)
    assert certify(Smoothing(SIGMA, n=10, alpha=0.5**10 * (1 + 1e-9), **settings), [1] * 11).prediction == 1
    assert certify(Smoothing(SIGMA, n=11, alpha=0.5**10, **settings), [1] * 12).prediction == 1
    with pytest.raises(ValueError, match="1 <= n0 <= n"):
        Smoothing(SIGMA, n0=13, n=12, num_classes=2)
    assert certify(Smoothing(SIGMA, n0=12, n=12, num_classes=2), [1] * 24).samples == 12


def test_a_prediction_may_have_exactly_the_p_value_alpha():
    """All of 10 agree: 2 * 2^-10."""
    image, noise = torch.zeros(1, 1, 1, 1), Noise.of(0, torch.arange(1))
    (found,) = Smoothing(SIGMA, n0=1, n=10, alpha=0.5**9, num_classes=2).predict(Scripted([1] * 10), image, noise)
    assert (found.prediction, found.p_value) == (1, 0.5**9)
