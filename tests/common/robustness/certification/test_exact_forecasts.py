"""Predicted verdicts against all orders of the samples, in exact fractions."""

import math
from fractions import Fraction
from itertools import combinations

import pytest
from scipy.stats import norm

from common.records.schema import ABSTAIN
from common.robustness.certification.binomial import clopper_pearson_lower, needed_count
from common.robustness.certification.forecast import Forecast, _verdict
from tests.common.robustness.certification.scripted import certify

SIGMA = 0.5
N = 8


def first_counts(total, size):
    """Agreements among the first ``size`` of N samples, for every order in which ``total`` of N agree."""
    return [sum(place < size for place in places) for places in combinations(range(N), total)]


def share(counts, holds):
    return Fraction(sum(map(holds, counts)), len(counts))


@pytest.mark.parametrize("needed", range(1, N + 1))
def test_a_verdict_is_given_where_few_enough_orders_contradict_it(needed):
    """All counts of all prefixes of 8 samples, at errors just above and just below the share of orders."""
    for size in range(1, N + 1):
        fails, holds = first_counts(needed - 1, size), first_counts(needed, size)
        for count in range(size + 1):
            against_yes = share(fails, lambda k, count=count: k >= count)
            against_no = share(holds, lambda k, count=count: k <= count)
            around = [float(p) * (1 + step) for p in (against_yes, against_no) for step in (-1e-9, 1e-9)]
            for error in [1e-6, *(value for value in around if 0 < value < 0.5)]:
                expected = True if against_yes <= error else False if against_no <= error else None
                assert _verdict(count, size, N, needed, error) is expected, (size, count, error)


@pytest.mark.parametrize("needed", range(1, N + 1))
def test_a_certain_verdict_is_that_of_every_completion(needed):
    """With an error below the share of any order, a verdict is given if all completions have it, and only then."""
    for size in range(1, N + 1):
        for count in range(size + 1):
            completed = {count + more >= needed for more in range(N - size + 1)}
            assert _verdict(count, size, N, needed, 1e-6) is (completed.pop() if len(completed) == 1 else None)


def target_with(needed, n, alpha):
    """A radius that takes exactly ``needed`` of n samples."""
    low, high = (clopper_pearson_lower(k, n, alpha) for k in (needed - 1, needed))
    radius = round(SIGMA * float(norm.ppf((low + high) / 2)), 6)
    assert needed_count(SIGMA, radius, n, alpha) == needed
    return radius


def test_an_open_verdict_is_guessed_by_the_share_of_the_samples():
    """4 of 5 is the share 80 / 100 that the target takes: it is predicted as certified; 3 of 5 is less."""
    radius = target_with(80, 100, 0.01)
    forecast = Forecast(SIGMA, n0=60, n=100, alpha=0.01, num_classes=2, targets=(radius,), first=5, limit=5)
    found = certify(forecast, [1, 1, 1, 1, 0])
    assert (found.prediction, found.radius, found.count, found.undecided) == (1, radius, 4, (radius,))
    assert found.p_lower == pytest.approx(norm.cdf(radius / SIGMA), abs=1e-15)
    found = certify(forecast, [1, 1, 1, 0, 0])
    assert (found.prediction, found.radius, found.p_lower, found.undecided) == (ABSTAIN, 0.0, 0.0, (radius,))


def test_a_forecast_stops_as_soon_as_the_verdict_is_certain():
    """80 of 100 must agree, at most 20 may not: with 21 the answer is certain, with 20 it is open."""
    radius = target_with(80, 100, 0.01)
    forecast = Forecast(SIGMA, n0=60, n=100, alpha=0.01, num_classes=2, targets=(radius,), first=98, error=1e-3)
    assert forecast.stages == [98, 100]
    assert certify(forecast, [1] * 78, [0] * 20, [1, 1]).radius == radius
    assert certify(forecast, [1] * 77, [0] * 21).samples == 98


def test_targets_need_samples_that_select_the_class():
    """The chance that at most half of n0 samples agree, by its sum, is the least error that the first target takes."""
    radii, n0 = tuple(target_with(needed, 100, 0.01) for needed in (80, 95)), 20
    chance = sum(math.comb(n0, k) * 0.8**k * 0.2 ** (n0 - k) for k in range(n0 // 2 + 1))
    settings = {"n0": n0, "n": 100, "alpha": 0.01, "num_classes": 2}
    Forecast(SIGMA, **settings, targets=radii, error=chance * (1 + 1e-9))
    with pytest.raises(ValueError, match="might choose another class"):
        Forecast(SIGMA, **settings, targets=radii, error=chance * (1 - 1e-9))
    with pytest.raises(ValueError, match=r"100 samples cannot certify 1\.9"):
        Forecast(SIGMA, **settings, targets=(radii[0], 1.9), error=0.1)
