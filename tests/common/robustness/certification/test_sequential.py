"""Sequential certification: sound under every stopping rule, with far fewer of the fixed procedure's samples."""

import math

import pytest
import torch
from scipy.stats import norm

from common.noise import Noise
from common.records.schema import ABSTAIN
from common.robustness.certification.binomial import clopper_pearson_lower
from common.robustness.certification.sequential import Sequential
from common.robustness.certification.smoothing import Smoothing
from common.robustness.classifiers import Classifier
from common.robustness.evaluation.clean_and_certified import Certified

SIGMA = 0.5
COMMON = {"n0": 10, "n": 400, "alpha": 0.05, "num_classes": 2, "batch_size": 2**15}


class HalfSpace(Classifier):
    """Class 1 with probability Phi(pixel / sigma) under smoothing: a half-space at that distance."""

    def forward(self, image, noise=None):
        side = image.flatten(1)[:, 0]
        return torch.stack((-side, side), 1)


def images(*distances):
    return torch.tensor(distances).view(-1, 1, 1, 1)


def rows(n, seed=0):
    return Noise.of(seed, torch.arange(n))


def certify(distance, runs, procedure, seed=0):
    return procedure.certify(HalfSpace(), images(distance).expand(runs, 1, 1, 1), rows(runs, seed))


@pytest.mark.parametrize("distance", [0.02, 0.3, 0.75])
@pytest.mark.parametrize(
    "procedure",
    [
        Smoothing(SIGMA, **COMMON),
        Sequential(SIGMA, **COMMON, targets=(0.25, 0.5, 0.75), first=25),
        Sequential(SIGMA, **COMMON, targets=(0.2,), first=10, growth=1.3),
    ],
    ids=["fixed", "ladder", "many stages"],
)
def test_the_promised_error_rate_holds_over_two_thousand_certificates(procedure, distance):
    """Share of radii above the truth <= alpha. The test itself errs with chance 1e-4: 100 + 3.72 sqrt(95) wrong ones.

    Class 0, should the selection take it, has a true radius of -distance, so any certificate of it is wrong too.
    """
    certificates = certify(distance, 2000, procedure, seed=7)
    truth = {1: distance, 0: -distance, ABSTAIN: 0.0}
    wrong = sum(c.radius > truth[c.prediction] for c in certificates)
    assert wrong <= 100 + 3.72 * math.sqrt(2000 * 0.05 * 0.95)


@pytest.mark.parametrize("distance", [0.3, 0.75])
def test_the_error_rate_holds_where_the_selecting_samples_stop_images(distance):
    """The same, at a target that most of the images reach or most do not: some take no further samples, some do."""
    procedure = Sequential(SIGMA, **{**COMMON, "n0": 100}, targets=(0.25, 0.75), first=25)
    certificates = certify(distance, 2000, procedure, seed=8)
    truth = {1: distance, 0: -distance, ABSTAIN: 0.0}
    assert sum(c.radius > truth[c.prediction] for c in certificates) <= 100 + 3.72 * math.sqrt(2000 * 0.05 * 0.95)
    single = certify(distance, 200, Sequential(SIGMA, **{**COMMON, "n0": 100}, targets=(distance,), first=25), seed=9)
    assert 0 < sum(c.samples == 0 for c in single) < 200
    assert sum(c.radius > truth[c.prediction] for c in single) <= 10 + 3.72 * math.sqrt(200 * 0.05 * 0.95)


def test_without_futility_the_last_stage_is_the_fixed_procedure():
    """A target that the images hardly reach: all n samples, the same counts, and the bound at alpha / J."""
    fixed = Smoothing(SIGMA, n0=10, n=400, alpha=0.01, num_classes=2)
    ladder = Sequential(SIGMA, n0=10, n=400, alpha=0.01, num_classes=2, targets=(0.75,), first=100, futility=0.0)
    assert ladder.stages == [100, 200, 400]
    given = images(0.78, 0.8, 0.82), rows(3)
    for one, other in zip(fixed.certify(HalfSpace(), *given), ladder.certify(HalfSpace(), *given), strict=True):
        if other.samples == 400:
            assert other.count == one.count
            assert other.p_lower >= clopper_pearson_lower(one.count, 400, 0.01 / 3)
    assert any(c.samples == 400 for c in ladder.certify(HalfSpace(), *given))


def test_an_image_stops_at_the_first_stage_that_certifies_its_target():
    ladder = Sequential(SIGMA, n0=10, n=10_000, num_classes=2, targets=(0.25,))
    certificate, *_ = ladder.certify(HalfSpace(), images(2.0), rows(1))
    assert (certificate.samples, certificate.count) == (100, 100)
    expected = SIGMA * norm.ppf(clopper_pearson_lower(100, 100, 0.001 / len(ladder.stages)))
    assert certificate.radius == pytest.approx(expected)
    assert expected > 0.25


def test_a_hopeless_image_stops_after_the_samples_that_select_its_class():
    """Not so with the target 0 (the class alone), nor where n0 samples are too few to decide."""
    settings = {"n": 10_000, "num_classes": 2}
    given = HalfSpace(), images(0.05, 2.0), rows(2)
    hopeless, clear = Sequential(SIGMA, n0=100, targets=(0.75,), **settings).certify(*given)
    assert (hopeless.samples, hopeless.prediction, hopeless.radius) == (0, ABSTAIN, 0.0)
    assert clear.samples > 0 and clear.radius >= 0.75
    assert Sequential(SIGMA, n0=100, targets=(0.0, 0.75), **settings).certify(*given)[0].samples >= 100
    assert Sequential(SIGMA, n0=2, targets=(0.75,), **settings).certify(*given)[0].samples == 100


def test_with_labels_misclassified_images_draw_no_samples():
    """The label's class gets the same certificate as without labels; another class abstains after n0 samples."""
    settings = {**COMMON, "targets": (0.25, 0.5), "first": 25}
    x, label = images(0.75, -0.75, 0.02, 0.3, -0.3), torch.tensor([1, 1, 0, 0, 0])
    plain = Sequential(SIGMA, **settings).certify(HalfSpace(), x, rows(5))
    labelled = Sequential(SIGMA, **settings, labelled=True).certify(HalfSpace(), x, rows(5), label)
    assert [labelled[i] == plain[i] for i in (0, 4)] == [True, True]
    assert plain[1].prediction == 0 and plain[1].samples > 0
    assert all((labelled[i].prediction, labelled[i].radius, labelled[i].samples) == (ABSTAIN, 0.0, 0) for i in (1, 3))
    with pytest.raises(ValueError, match="takes labels if labelled=True and only then; got labelled=True"):
        Sequential(SIGMA, **settings, labelled=True).certify(HalfSpace(), x, rows(5))
    with pytest.raises(ValueError, match="takes labels if labelled=True and only then; got labelled=False"):
        Sequential(SIGMA, **settings).certify(HalfSpace(), x, rows(5), label)
    with pytest.raises(ValueError, match=r"label must be int64 .*one per image of 5"):
        Sequential(SIGMA, **settings, labelled=True).certify(HalfSpace(), x, rows(5), label[:1])
    batch = images(0.75, 0.75), torch.tensor([1, 0]), torch.arange(2)
    _, record = Certified(Sequential(SIGMA, **settings, labelled=True))(HalfSpace(), batch)
    assert record.prediction == ABSTAIN and not record.correct


def test_an_image_stops_where_n_samples_would_not_certify_its_true_radius():
    """At p = 0.845 a radius of 0.841 takes a share of 0.855: 5,640 samples; with futility at 0.841, all 10,000."""
    distance = SIGMA * float(norm.ppf(0.845))
    certificates = certify(distance, 40, Sequential(SIGMA, n0=20, n=10_000, num_classes=2, targets=(SIGMA,), first=60))
    assert sum(c.samples for c in certificates) < 40 * 7_500


def test_few_samples_decide_one_target():
    """40 distances up to 1.2, the target 0.5: the same verdicts as 10,000 samples but at the edge."""
    distances = torch.linspace(0.03, 1.2, 40)
    given = images(*distances.tolist()), rows(40)
    fixed = Smoothing(SIGMA, num_classes=2, n=10_000).certify(HalfSpace(), *given)
    ladder = Sequential(SIGMA, num_classes=2, n=10_000, targets=(0.5,)).certify(HalfSpace(), *given)
    differ = sum((a.radius >= 0.5) != (b.radius >= 0.5) for a, b in zip(fixed, ladder, strict=True))
    assert differ <= 1
    assert sum(c.samples for c in ladder) < 40 * 10_000 / 5
    curve = Sequential(SIGMA, num_classes=2, n=10_000, targets=(0.25, 0.5, 0.75)).certify(HalfSpace(), *given)
    assert sum(c.samples for c in ladder) < sum(c.samples for c in curve) < 40 * 10_000


def test_certificates_do_not_depend_on_other_images_or_batch_size():
    given = images(0.1, 0.3, 0.5, 0.9, 2.0)
    settings = {"num_classes": 2, "n": 3000, "targets": (0.25, 0.75)}
    together = Sequential(SIGMA, **settings).certify(HalfSpace(), given, rows(5))
    parts = [
        Sequential(SIGMA, batch_size=7, **settings).certify(
            HalfSpace(), given[i : i + 1], rows(5).rows(slice(i, i + 1))
        )[0]
        for i in range(5)
    ]
    assert together == parts
    assert len({c.samples for c in together}) > 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"targets": ()}, "targets must be a list of at least 1"),
        ({"targets": 0.25}, "targets must be a list"),
        ({"targets": (0.5, 0.25)}, "ascending"),
        ({"targets": (-0.1,)}, "each of targets must be a finite number >= 0"),
        ({"targets": (0.25, math.nan)}, "each of targets must be a finite number >= 0"),
        ({"targets": (0.25, 64 / 255)}, "targets may have 6 digits, as records hold no more; got"),
        ({"first": 0}, "first, .* must be an integer >= 1"),
        ({"growth": 1.0}, "growth must be a finite number > 1"),
        ({"futility": 0.5}, "futility, .* >= 0 and < 0.5"),
        ({"n": 100, "targets": (2.0,)}, r"100 samples at sigma 0\.5 certify at most .*got the target 2"),
        ({"n0": 200, "n": 100}, "n0 <= n"),
        ({"alpha": 1.0}, "alpha"),
        ({"num_classes": 1}, "num_classes"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        Sequential(**{"sigma": SIGMA, "num_classes": 2, **settings})
