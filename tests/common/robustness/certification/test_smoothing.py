"""Certificates on a half-space, where the true distance is known; bounds whose coverage is counted exactly."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom, norm

from common.noise import Noise
from common.records.schema import ABSTAIN
from common.robustness.certification.binomial import clopper_pearson_lower
from common.robustness.certification.forecast import Forecast
from common.robustness.certification.sequential import Sequential
from common.robustness.certification.smoothing import Smoothing
from common.robustness.classifiers import Classifier

NORMAL = torch.tensor([0.6, 0.0, -0.8, 0.0])


class HalfSpace(Classifier):
    """Class 1 where ``NORMAL . x > threshold``; |NORMAL| = 1, so the margin is the distance."""

    def __init__(self, threshold=0.0):
        super().__init__()
        self.threshold = threshold
        self.images, self.noises = [], []

    def forward(self, image, noise=None):
        self.images.append(image)
        self.noises.append(noise)
        side = image.flatten(1) @ NORMAL - self.threshold
        return torch.stack((-side, side), 1)


def at_distances(*distances):
    """Images on the class-1 side of the half-space through the origin."""
    return torch.stack([0.3 * torch.tensor([4 / 3, 1.0, 1.0, 1.0]) + d * NORMAL for d in distances]).view(-1, 1, 2, 2)


def rows(n, seed=0):
    return Noise.of(seed, torch.arange(n))


def test_certificates_stay_below_the_true_distance_and_come_close():
    """Error rate: one of 8 certificates too large with chance 8 alpha = 0.8 %; the seed is fixed, so it never moves."""
    distances = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
    smoothing = Smoothing(0.25, n0=100, n=20_000, alpha=0.001, num_classes=2, batch_size=4096)
    certificates = smoothing.certify(HalfSpace(), at_distances(*distances), rows(8))
    for certificate, distance in zip(certificates, distances, strict=True):
        assert certificate.prediction == 1
        assert certificate.samples == 20_000
        assert certificate.p_lower <= norm.cdf(distance / 0.25)
        assert distance - 0.025 < certificate.radius <= distance
        assert certificate.radius == pytest.approx(0.25 * norm.ppf(certificate.p_lower))
    assert [c.radius for c in certificates] == sorted(c.radius for c in certificates)


def test_the_promised_error_rate_holds_over_many_images():
    """400 certificates at alpha = 0.1: at most 40 + 4 standard deviations of them too large, and some are."""
    smoothing = Smoothing(0.5, n0=10, n=300, alpha=0.1, num_classes=2)
    certificates = smoothing.certify(HalfSpace(), at_distances(0.3).expand(400, 1, 2, 2), rows(400, seed=5))
    wrong = sum(c.radius > 0.3 for c in certificates)
    assert 5 < wrong < 40 + 4 * math.sqrt(400 * 0.1 * 0.9)


def test_on_the_boundary_the_certifier_abstains():
    (certificate,) = Smoothing(0.25, n0=10, n=500, num_classes=2).certify(HalfSpace(), at_distances(0.0), rows(1))
    assert (certificate.prediction, certificate.radius) == (ABSTAIN, 0.0)
    assert ABSTAIN == -1
    assert certificate.p_lower <= 0.5


@pytest.mark.parametrize(
    ("n", "radii"), [(1_000, (0.616, 1.232, 2.463)), (10_000, (0.800, 1.599, 3.199)), (100_000, (0.953, 1.906, 3.811))]
)
def test_the_largest_radius_is_the_published_one(n, radii):
    """alpha = 0.001 and unanimous samples; sigma 0.25, 0.5, 1."""
    for sigma, radius in zip((0.25, 0.5, 1.0), radii, strict=True):
        assert sigma * norm.ppf(clopper_pearson_lower(n, n, 0.001)) == pytest.approx(radius, abs=6e-4)
    (certificate,) = Smoothing(0.25, n0=1, n=1000, num_classes=2).certify(HalfSpace(), at_distances(9.0), rows(1))
    assert certificate.count == 1000
    assert certificate.radius == pytest.approx(0.616, abs=6e-4)


@pytest.mark.parametrize("n", [1, 2, 7, 30])
@pytest.mark.parametrize("alpha", [0.001, 0.05, 0.3])
def test_the_lower_bound_covers_exactly(n, alpha):
    """Sum over all outcomes: P(bound <= p) >= 1 - alpha for every p, and an infinitesimally larger bound would fail."""
    bounds = np.array([clopper_pearson_lower(k, n, alpha) for k in range(n + 1)])
    for p in np.concatenate((np.linspace(0, 1, 101), np.nextafter(bounds, -1)[1:], bounds)):
        coverage = binom.pmf(np.arange(n + 1), n, p)[bounds <= p].sum()
        assert coverage >= 1 - alpha - 1e-9
    for k in range(1, n + 1):
        just_below = bounds[k] * (1 - 1e-9)
        coverage = binom.pmf(np.arange(n + 1), n, just_below)[bounds <= just_below].sum()
        assert coverage == pytest.approx(1 - alpha, abs=1e-6), "tight at its own bound"
    assert bounds[0] == 0


def test_certificates_do_not_depend_on_the_batching():
    image, noise = at_distances(0.1, 0.2, 0.05, 0.4, 0.3), rows(5, seed=9)
    settings = {"sigma": 0.25, "n0": 10, "n": 200, "num_classes": 2}
    together = Smoothing(**settings).certify(HalfSpace(), image, noise)
    for batch_size in (1, 7, 64):
        assert Smoothing(**settings, batch_size=batch_size).certify(HalfSpace(), image, noise) == together
    parts = [
        certificate
        for part in ([0, 1, 2], [3, 4])
        for certificate in Smoothing(**settings).certify(HalfSpace(), image[part], noise.rows(torch.tensor(part)))
    ]
    assert parts == together


def test_rows_are_capped_samples_independent_and_the_image_unclipped():
    classifier, image = HalfSpace(), at_distances(0.2, 0.3)
    Smoothing(0.5, n0=20, n=50, num_classes=2, batch_size=16).certify(classifier, image, rows(2))
    assert max(len(batch) for batch in classifier.images) == 16
    assert sum(len(batch) for batch in classifier.images) == 2 * (20 + 50)
    assert float(torch.cat(classifier.images).min()) < 0, "noise is added to pixels without clipping"
    seen = [
        key
        for noise in classifier.noises
        for key in zip([noise.seed] * len(noise), noise.index.tolist(), noise.draw.tolist(), strict=True)
    ]
    assert len(set(seen)) == len(seen) == 2 * (20 + 50), "selection and estimation draw apart, each sample its own row"
    clean = torch.cat([image[noise.index] for noise in classifier.noises])
    z = ((torch.cat(classifier.images) - clean) / 0.5).flatten()
    assert float(z.std()) == pytest.approx(1, abs=0.15), "560 normals"
    inner = torch.cat([noise.normal(0, (1, 2, 2)) for noise in classifier.noises]).flatten()
    correlation = float(torch.corrcoef(torch.stack((z, inner)))[0, 1])
    assert abs(correlation) < 4 / math.sqrt(560), "independent of f's own noise"


def test_a_randomised_classifier_is_certified_for_the_probability_over_its_own_draws_too():
    """f adds its own N(0, s^2) along the normal: p_A = Phi(d / sqrt(sigma^2 + s^2))."""

    class Shaky(HalfSpace):
        randomised = True

        def forward(self, image, noise=None):
            return super().forward(image + 0.5 * noise.normal(0, (1,)).view(-1, 1, 1, 1) * NORMAL.view(1, 2, 2))

    (certificate,) = Smoothing(0.25, n0=100, n=20_000, num_classes=2, batch_size=8192).certify(
        Shaky(), at_distances(0.4), rows(1)
    )
    p = norm.cdf(0.4 / math.hypot(0.25, 0.5))
    assert p - 0.02 < certificate.p_lower <= p


def test_certifying_restores_the_mode_and_needs_no_gradient():
    classifier = HalfSpace().train()
    Smoothing(0.25, n0=1, n=2, alpha=0.3, num_classes=2).certify(
        classifier, at_distances(0.4).requires_grad_(), rows(1)
    )
    assert classifier.training
    assert not classifier.images[0].requires_grad


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sigma": 0.0}, "sigma must be above 0"),
        ({"sigma": math.nan}, "sigma must be above 0"),
        ({"sigma": -1.0}, "sigma must be above 0"),
        ({"sigma": 0.25, "n0": 0}, "n0 must be an integer >= 1; got 0"),
        ({"sigma": 0.25, "n0": 11, "n": 10}, "1 <= n0 <= n; got n0=11, n=10"),
        ({"sigma": 0.25, "alpha": 0.0}, "alpha"),
        ({"sigma": 0.25, "alpha": 1.0}, "alpha"),
        ({"sigma": 0.25, "num_classes": 1}, "num_classes must be an integer >= 2"),
        ({"sigma": 0.25, "batch_size": 0}, "batch_size must be an integer >= 1"),
    ],
)
def test_invalid_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Smoothing(**settings)


@pytest.mark.parametrize("kind", [Smoothing, Sequential, Forecast])
def test_samples_that_never_certify_are_refused(kind):
    """With all of n samples agreeing the bound is alpha^(1/n); it must be above 1/2, or every image abstains."""
    for n, alpha in ((9, 0.001), (6, 2**-6), (1, 0.5), (20, 1e-12)):
        with pytest.raises(ValueError, match=f"n = {n} samples never certify at alpha = {alpha:g}"):
            kind(0.25, n0=1, n=n, alpha=alpha)
    for n, alpha in ((10, 0.001), (7, 2**-6), (2, 0.5), (40, 1e-12)):
        assert clopper_pearson_lower(n, n, alpha) > 0.5
    certified = Smoothing(0.25, n0=1, n=10, num_classes=2).certify(HalfSpace(), at_distances(9.0), rows(1))
    assert certified[0].radius > 0


def test_samples_that_never_decide_a_prediction_are_refused():
    """Two-sided: 2^(1 - n) <= alpha takes one sample more than a certificate."""
    arguments = HalfSpace(), at_distances(9.0), rows(1)
    with pytest.raises(ValueError, match="n = 10 samples never decide a prediction at alpha = 0"):
        Smoothing(0.25, n0=1, n=10, num_classes=2).predict(*arguments)
    assert Smoothing(0.25, n0=1, n=11, num_classes=2).predict(*arguments)[0].prediction == 1


def test_mismatches_are_refused():
    with pytest.raises(ValueError, match="num_classes must be the classifier's: the classifier has 2, Smoothing 10"):
        Smoothing(0.25, n0=1, n=2, alpha=0.3).certify(HalfSpace(), at_distances(0.4), rows(1))
    with pytest.raises(ValueError, match="a row of noise per image; got 1 images, 2 rows"):
        Smoothing(0.25, n0=1, n=2, alpha=0.3, num_classes=2).certify(HalfSpace(), at_distances(0.4), rows(2))
    with pytest.raises(ValueError, match="0 <= k <= n"):
        clopper_pearson_lower(3, 2, 0.1)


def test_nan_logits_are_refused():
    class Broken(Classifier):
        def forward(self, image, noise=None):
            return torch.full((len(image), 3), torch.nan)

    with pytest.raises(ValueError, match="certificate needs logits that are numbers"):
        Smoothing(0.25, n0=2, n=4, alpha=0.1, num_classes=3).certify(
            Broken(), torch.rand(2, 1, 4, 4), Noise.of(0, torch.arange(2))
        )
