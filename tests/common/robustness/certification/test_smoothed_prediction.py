"""PREDICT of a smoothed classifier: exact p-values, and a rate of wrong classes that is counted."""

from fractions import Fraction
from math import comb

import pytest
import torch
from scipy.stats import binom, binomtest

from common.noise import Noise
from common.records.schema import ABSTAIN
from common.robustness.certification.sequential import Sequential
from common.robustness.certification.smoothed_prediction import decide_by_counts, equal_chance_p_value
from common.robustness.certification.smoothing import Smoothing
from common.robustness.classifiers import Classifier


@pytest.mark.parametrize("n", [0, 1, 2, 7, 30, 31])
def test_the_p_value_is_the_exact_sum(n):
    """All outcomes no more probable than the observed one, in rational numbers; float64 keeps 13 digits."""
    for count in range(n + 1):
        ways = [comb(n, k) for k in range(n + 1)]
        exact = Fraction(sum(way for way in ways if way <= comb(n, count)), 2**n)
        assert equal_chance_p_value(count, n) == pytest.approx(float(exact), rel=1e-13)


@pytest.mark.parametrize(
    ("count", "n"), [(530, 1000), (999, 1000), (50_500, 100_000), (49_000, 100_000), (900, 10_000)]
)
def test_the_p_value_is_scipys(count, n):
    assert equal_chance_p_value(count, n) == pytest.approx(binomtest(count, n).pvalue, rel=1e-9, abs=1e-300)


def test_impossible_counts_are_refused():
    with pytest.raises(ValueError, match="0 <= count <= n; got 4 of 3"):
        equal_chance_p_value(4, 3)


def test_the_leading_classes_decide():
    """Counts of three classes; the third takes no part. p of 8 to 0 is 2^-7, of 60 to 40 0.0569."""
    counts = torch.tensor([[0, 8, 0], [40, 60, 5], [50, 0, 50], [1, 2, 97]])
    found = decide_by_counts(counts, alpha=2**-7)
    assert [one.prediction for one in found] == [1, ABSTAIN, ABSTAIN, 2]
    assert [(one.count, one.second, one.samples) for one in found] == [
        (8, 0, 8),
        (60, 40, 105),
        (50, 50, 100),
        (97, 2, 100),
    ]
    assert found[0].p_value == 2**-7
    assert found[1].p_value == pytest.approx(0.0569, abs=1e-4)
    assert found[2].p_value == 1
    assert decide_by_counts(counts[:1], alpha=2**-7 - 1e-6)[0].prediction == ABSTAIN


class HalfSpace(Classifier):
    """Class 1 where the first pixel exceeds 1/2, else class 0; a third class never wins."""

    def forward(self, image, noise=None):
        side = image.flatten(1)[:, 0] - 0.5
        return torch.stack((-side, side, torch.full_like(side, -1e9)), 1)


def predict(distance, images, smoothing, seed=0):
    image = torch.full((images, 1, 2, 2), 0.5 + distance)
    return smoothing.predict(HalfSpace(), image, Noise.of(seed, torch.arange(images)))


def test_wrong_classes_are_no_more_frequent_than_alpha():
    """On the boundary both classes are equally likely, so a prediction is a false decision: the worst case.

    2,000 images: their number is Binomial(2000, level) with the test's exact level, at most alpha. The bounds fail
    with probability 1e-6 for a random seed.
    """
    smoothing = Smoothing(0.25, n0=1, n=100, alpha=0.1, num_classes=3)
    level = sum(binom.pmf(k, 100, 0.5) for k in range(101) if binomtest(k, 100).pvalue <= 0.1)
    assert 0.08 < level <= 0.1
    decided = sum(one.prediction != ABSTAIN for one in predict(0.0, 2000, smoothing, seed=3))
    assert binom.ppf(5e-7, 2000, level) <= decided <= binom.ppf(1 - 5e-7, 2000, level)


def test_far_from_the_boundary_every_image_has_its_class():
    """At one sigma the class has probability 0.84: 100 samples abstain with probability 3e-9 each."""
    for smoothing in (Smoothing(0.25, n0=1, n=100, num_classes=3), Sequential(0.25, n0=1, n=100, num_classes=3)):
        for distance, label in ((0.25, 1), (-0.25, 0)):
            found = predict(distance, 50, smoothing)
            assert {one.prediction for one in found} == {label}
            assert all(one.p_value <= smoothing.alpha for one in found)


def test_it_depends_on_no_batch_and_needs_a_row_of_noise_per_image():
    small, large = (Smoothing(0.25, n0=1, n=50, num_classes=3, batch_size=size) for size in (7, 512))
    assert predict(0.02, 9, small) == predict(0.02, 9, large)
    with pytest.raises(ValueError, match="a row of noise per image; got 2 images, 3 rows"):
        small.predict(HalfSpace(), torch.zeros(2, 1, 2, 2), Noise.of(0, torch.arange(3)))
