"""Forecast verdicts: those of the fixed procedure on the same samples, from far fewer of them."""

import numpy as np
import pytest
import torch
from scipy.stats import hypergeom, norm

from common.noise import Noise
from common.records.schema import ABSTAIN
from common.robustness.certification.binomial import clopper_pearson_lower, needed_count
from common.robustness.certification.forecast import Forecast
from common.robustness.certification.smoothing import Smoothing
from common.robustness.classifiers import Classifier
from common.robustness.evaluation.clean_and_certified import Certified
from common.robustness.padding import Padded

SIGMA = 0.5
COMMON = {"n0": 60, "n": 2000, "alpha": 0.01, "num_classes": 2, "batch_size": 2**15}
TARGETS = (0.25, 0.5, 1.0)


class HalfSpace(Classifier):
    """Class 1 where the only pixel is positive; declares ``evaluations`` as a diffusion classifier does."""

    evaluations = 1261

    def forward(self, image, noise=None):
        side = image.flatten(1)[:, 0]
        return torch.stack((-side, side), 1)


def both(distances, **settings):
    image = torch.tensor(distances).view(-1, 1, 1, 1)
    noise = Noise.of(3, torch.arange(len(image)))
    forecast = Forecast(SIGMA, **COMMON, targets=TARGETS, **settings).certify(HalfSpace(), image, noise)
    return forecast, Smoothing(SIGMA, **COMMON).certify(HalfSpace(), image, noise)


def test_the_verdicts_are_those_of_the_procedure_on_the_same_samples():
    """600 images, three verdicts each, wrong with chance 1e-3 at most: more than 8 wrong ones have chance 1e-4."""
    distances = torch.linspace(0.0, 1.5, 600).tolist()
    forecast, fixed = both(distances)
    wrong = sum((f.radius >= r) != (c.radius >= r) for f, c in zip(forecast, fixed, strict=True) for r in TARGETS)
    assert wrong <= 8
    assert sum(f.samples for f in forecast) < 0.6 * 600 * COMMON["n"]
    assert not any(f.undecided for f in forecast)


def test_with_labels_the_verdicts_are_about_them_and_certified_accuracy_is_that_of_the_procedure():
    """Every second image is labelled wrongly: they abstain early, the others get the same verdicts."""
    distances = torch.linspace(0.4, 1.5, 200).tolist()
    label = torch.arange(200) % 2
    image, noise = torch.tensor(distances).view(-1, 1, 1, 1), Noise.of(3, torch.arange(200))
    labelled = Forecast(SIGMA, **COMMON, targets=TARGETS).certify(HalfSpace(), image, noise, label)
    forecast, fixed = both(distances)
    assert labelled[1::2] == forecast[1::2]
    assert all((c.prediction, c.radius) == (ABSTAIN, 0.0) for c in labelled[::2])
    assert sum(c.samples for c in labelled[::2]) < 0.1 * sum(c.samples for c in forecast[::2])
    for radius in TARGETS:
        right = [c.prediction == y and c.radius >= radius for c, y in zip(fixed, label.tolist(), strict=True)]
        predicted = [c.prediction == y and c.radius >= radius for c, y in zip(labelled, label.tolist(), strict=True)]
        assert sum(a != b for a, b in zip(right, predicted, strict=True)) <= 2


def test_an_error_near_one_half_gives_more_wrong_verdicts():
    """The same images with error 0.499: more than the 8 wrong verdicts allowed above."""
    distances = torch.linspace(0.0, 1.5, 600).tolist()
    hasty, fixed = both(distances, error=0.499, growth=250.0)
    wrong = sum((f.radius >= r) != (c.radius >= r) for f, c in zip(hasty, fixed, strict=True) for r in TARGETS)
    assert wrong > 8


def test_certain_verdicts_need_no_error():
    """All samples that could change the verdict agree, or enough already disagree."""
    (easy, hopeless), _ = both([4.0, -0.0001])
    assert (easy.radius, easy.prediction) == (1.0, 1) and easy.samples < 800
    assert (hopeless.radius, hopeless.prediction) == (0.0, ABSTAIN) and hopeless.samples <= 150


def test_verdicts_open_at_the_limit_are_undecided():
    distance = SIGMA * float(norm.ppf(needed_count(SIGMA, 0.5, COMMON["n"], COMMON["alpha"]) / COMMON["n"]))
    forecast, _ = both([distance] * 8, limit=100)
    assert all(f.samples == 100 for f in forecast) and sum(0.5 in f.undecided for f in forecast) >= 6


@pytest.mark.parametrize("n", [100, 1000, 10_000])
@pytest.mark.parametrize("radius", [0.1, 0.5])
def test_the_needed_count_is_the_smallest_whose_bound_suffices(n, radius):
    k = needed_count(0.25, radius, n, 0.001)
    needed = float(norm.cdf(radius / 0.25))
    assert k == n + 1 or clopper_pearson_lower(k, n, 0.001) >= needed
    assert clopper_pearson_lower(min(k, n + 1) - 1, n, 0.001) < needed


def test_ten_thousand_samples_at_the_smallest_noise_need_the_published_counts():
    """8,526 for 0.25, 9,818 for 0.5 and 9,997 for 0.75 at sigma 0.25, alpha 0.001."""
    assert [needed_count(0.25, r, 10_000, 0.001) for r in (0.25, 0.5, 0.75)] == [8526, 9818, 9997]


def test_records_hold_the_procedure_and_its_cost():
    image, label = torch.rand(2, 1, 8, 8), torch.tensor([1, 0])
    batch = (image, label, torch.arange(2))
    records = [
        row
        for classifier in (HalfSpace(), Padded(HalfSpace()))  # a test pads small batches
        for row in Certified(Forecast(SIGMA, **COMMON, targets=TARGETS))(classifier, batch)
    ]
    assert all(r.procedure == 2060 and r.evaluations == 2060 * 1261 for r in records)


@pytest.mark.parametrize("error", [0.05, 0.2])
@pytest.mark.parametrize("holds", [True, False])
def test_the_error_holds_over_all_stages(error, holds):
    """The exact chance of a wrong verdict at any stage, where the n samples just suffice or just fail.

    Each stage may err with chance error / J; with chance ``error`` each, together they would exceed it.
    """
    forecast = Forecast(SIGMA, n0=60, n=400, alpha=0.01, num_classes=2, targets=(0.25,), error=error)
    (needed,) = forecast.counts_needed
    total, wrong, size = needed if holds else needed - 1, 0.0, 0
    chance = np.array([1.0])  # of each number of agreements among the first ``size`` samples, no verdict so far
    for stage in forecast.stages:
        after = np.zeros(stage + 1)
        for count in np.flatnonzero(chance):
            more = np.arange(stage - size + 1)
            after[count + more] += chance[count] * hypergeom.pmf(more, 400 - size, total - count, stage - size)
        verdicts = [forecast._verdicts(count, stage)[0] for count in range(stage + 1)]
        wrong += sum(after[count] for count, verdict in enumerate(verdicts) if verdict is (not holds))
        chance, size = np.where([verdict is None for verdict in verdicts], after, 0.0), stage
    assert error / 10 < wrong <= error
    assert chance.sum() == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"targets": (0.0, 0.5)}, "targets must be radii > 0"),
        ({"targets": (0.5, 0.25)}, "ascending"),
        ({"targets": (0.05,)}, "might choose another class"),
        ({"targets": (1.9,)}, "cannot certify"),
        ({"first": 0}, "first"),
        ({"limit": 3000}, "limit"),
        ({"growth": 1.0}, "growth"),
        ({"error": 0.0}, "error"),
    ],
)
def test_invalid_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Forecast(SIGMA, **{**COMMON, "targets": TARGETS, **settings})
