"""Certificates of DC against known boundaries; bounds that hold and are nearly attained."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from common.exact import ExactDenoiser, GaussianMixture
from common.noise import Noise
from common.records.schema import ABSTAIN
from common.robustness.evaluation.clean_and_certified import Certified
from common.robustness.padding import Padded
from common.units import to_pixel
from ndc.bounded import BoundedDiffusionClassifier
from ndc.claimed import Claimed, paper_slopes, reference_slopes
from ndc.classifier import NoisedDiffusionClassifier
from ndc.lipschitz import Lipschitz
from ndc.lipschitz_bounds import (
    slopes,
)
from ndc.nodes import Nodes
from ndc.posterior import Posterior
from ndc.task import NDCTask
from tests.ndc.lipschitz_worlds import F64, Halves, Opposite, Steep, World, narrow, noise, point, steep

# The certificates ----------------------------------------------------------------------------------------------------


def test_radii_near_the_edge_are_tight_and_sound():
    """The truth is the distance to the edge, 0.005 pixels. The moving target costs 1.2 % of it, the draws the rest.

    60 images, each with its own draws: none may pass (alpha = 0.001). Without confidence half of them would be above.
    """
    sigma = 0.01
    dc = narrow(sigma, Halves(-0.9))
    image = point(-0.9 - sigma).expand(60, 1, 1, 1)
    certificates = Lipschitz(2, samples=4000).certify(dc, image, noise(60))
    assert all(c.prediction == 0 and c.radius <= sigma / 2 for c in certificates)
    assert min(c.radius for c in certificates) > 0.75 * sigma / 2
    many = Lipschitz(2, samples=200_000).certify(dc, image[:1], noise(1))[0]
    assert 0.96 * sigma / 2 < many.radius <= sigma / 2


@pytest.mark.parametrize("law", ["strong", "weak"])
def test_radii_by_the_target_alone_are_tight_and_sound(law):
    """E_1 - E_0 = 4 x: the boundary is at 0, 0.25 pixels away. Noise of 100 and 20,000 equal draws cost 1 % each."""
    (certificate,) = Lipschitz(2, 20_000, law=law).certify(narrow(100.0, Opposite()), point(0.5), noise(1))
    assert certificate.prediction == 0
    assert 0.97 * 0.25 < certificate.radius < 0.25


@pytest.mark.parametrize(("law", "limit"), [("strong", None), ("strong", 2.0), ("weak", 2.0)])
def test_no_search_finds_another_class_within_a_radius(law, limit):
    """Of the exact expected logits, in 32 directions at 5 distances up to each radius."""
    dc = steep(0, limit)
    world = World(dc)
    x = torch.tensor([[0.1, 0.1], [0.8, -0.5], [-0.3, -0.9]], dtype=F64)
    certificates = Lipschitz(3, samples=4000, law=law).certify(dc, to_pixel(x).view(-1, 1, 1, 2), noise(3))
    assert sum(c.radius > 0 for c in certificates) >= 2
    angle = torch.arange(32, dtype=F64) * (2 * math.pi / 32)
    circle = torch.stack([angle.cos(), angle.sin()], dim=1)
    for centre, certificate in zip(x, certificates, strict=True):
        if certificate.prediction == ABSTAIN:
            continue
        for share in torch.linspace(0, 1, 5, dtype=F64):
            logits = -world.terms(centre + 2 * share * certificate.radius * circle).sum(0)
            assert bool((logits.argmax(1) == certificate.prediction).all())


def test_the_strong_law_certifies_more_than_the_weak():
    """From the same draws. Where classes agree on almost every noisy image it is several times more."""
    means = torch.tensor([-0.2, 0.2], dtype=F64).view(2, 1, 1, 1).expand(2, 1, 4, 4).clone()
    mixture, nodes = GaussianMixture(means, 0.3), Nodes(2, "log", 0.5, 1.0)
    dc = BoundedDiffusionClassifier(ExactDenoiser(mixture), 2, nodes, limit=None)
    strong, weak = (
        Lipschitz(2, 4000, law=law).certify(dc, to_pixel(means[:1]), noise(1))[0].radius for law in ("strong", "weak")
    )
    assert strong > 3 * weak > 0  # measured 4.2


def test_events_that_no_draw_showed_are_covered_by_the_bound():
    """Class 0 is right except for 3 % of the noise, where its error gives class 1 the larger expected logit.

    (1 - 0.03)^60 = 16 % of all sets of 30 draws show none of it. No certificate may say 0 (200 sets at 0.001).
    """

    class Rare(Halves):
        def forward(self, x, sigma, label=None):
            first = torch.where(x < self.edge, -1.0, 1.0).to(x)
            return torch.where(label.view(-1, 1, 1, 1) == 0, first, torch.full_like(x, -0.75))

    dc = narrow(0.1, Rare(-1 + 0.1 * norm.isf(0.03)))
    certificates = Lipschitz(2, 30, law="weak").certify(dc, point(-1.0).expand(200, 1, 1, 1), noise(200))
    assert all(c.prediction != 0 for c in certificates)
    assert sum(c.count == 30 for c in certificates) > 10


def test_radii_shrink_with_alpha_and_grow_with_samples():
    """With alpha from the same draws, always; with samples on the average of 20 images."""
    dc, image = narrow(0.1, Halves(-0.8)), point(-0.95).expand(20, 1, 1, 1)

    def radii(samples, alpha):
        return torch.tensor([c.radius for c in Lipschitz(2, samples, alpha).certify(dc, image, noise(20))])

    loose, usual, strict = (radii(400, alpha) for alpha in (0.1, 0.001, 1e-9))
    assert bool((loose > usual).all())
    assert bool((usual > strict).all())
    assert radii(200, 0.001).mean() < usual.mean() < radii(2000, 0.001).mean()


def test_a_prior_counts_as_far_as_it_goes():
    """In favour of the prediction it adds to the gap, against it it takes away: radius = gap / slope, weak law."""
    image, law = point(-0.95), Lipschitz(2, 400, law="weak")
    dc = narrow(0.1, Halves(-0.8))
    radius, slope = law.certify(dc, image, noise(1))[0].radius, slopes(dc, image).sum().item()
    for share in (-0.3, 0.3):
        prior = [share * radius * slope, 0.0]
        found = law.certify(narrow(0.1, Halves(-0.8), posterior=Posterior(log_prior=prior)), image, noise(1))[0].radius
        assert found == pytest.approx((1 + share) * radius)


def test_undecided_images_abstain_and_are_never_correct():
    """On the edge both classes are equally likely. The evaluator counts neither this nor a wrong class as certified."""
    dc = narrow(0.1, Halves(-0.5)).float()
    image = torch.cat([point(-0.5), point(-0.95), point(-0.95)]).float()
    evaluator = Certified(Lipschitz(2, 500))
    batch = (image, torch.tensor([0, 0, 1]), torch.arange(3))
    records = evaluator(dc, batch)
    assert [record.prediction for record in records] == [ABSTAIN, 0, 0]
    assert [record.correct for record in records] == [False, True, False]
    assert records[0].radius == 0.0 < records[1].radius
    assert all(record.samples == 500 for record in records)
    assert records[1].count == 500
    assert 0.5 < records[1].p_lower <= 1
    assert records[0].p_lower < 0.5


@pytest.mark.parametrize("batch_size", [1, 50, 600])
def test_a_certificate_does_not_depend_on_batches(batch_size):
    image, rows = torch.cat([point(0.1, 0.1), point(0.8, -0.5)]), Noise.of(4, torch.tensor([7, 3]))
    whole = Lipschitz(3, samples=20).certify(steep(0, 0.5), image, rows)
    dc = steep(0, 0.5, batch_size)
    alone = [Lipschitz(3, samples=20).certify(dc, image[b : b + 1], rows.rows(slice(b, b + 1)))[0] for b in range(2)]
    for a, b in zip(whole, alone, strict=True):
        assert (a.prediction, a.count) == (b.prediction, b.count)
        assert (a.radius, a.p_lower) == pytest.approx((b.radius, b.p_lower), rel=1e-9)


@pytest.mark.parametrize("certifier", [Lipschitz(2, 50), Claimed(2)], ids=["sound", "claimed"])
def test_a_padded_classifier_gets_the_same_certificate(certifier):
    """A test pads small batches; the certifier unwraps the classifier."""
    dc, image = narrow(0.1, Halves(-0.8)), point(-0.95)
    assert certifier.certify(Padded(dc), image, noise(1)) == certifier.certify(dc, image, noise(1))


def test_it_is_tested_like_smoothing():
    evaluator = Certified(Lipschitz(2, 100))
    NDCTask(narrow(0.1, Halves()), [evaluator])
    with pytest.raises(ValueError, match="same value"):
        NDCTask(NoisedDiffusionClassifier(Halves(), 2, 0.25), [evaluator])


# Published constants -------------------------------------------------------------------------------------------------


def test_the_references_radius_is_its_mean_over_nodes():
    """Its widest radius, 0.384, is that of a difference of 1 without weights, 1 / (2 L), L over 125 left ends.

    The 124 right ends at which the logits are evaluated would give 1.0144 times as much.
    """
    nodes = Nodes(124, "reference", 0.5, 3.0)
    dc = NoisedDiffusionClassifier(Halves(), 2, 0.0, "dc", nodes, "flat")
    width, grid = 2.5 / 125, np.linspace(0.5, 3, 126)
    factor = 1 + math.sqrt(2 / math.pi)
    for dimension in (1, 3072):
        widest = width / reference_slopes(dc, dimension).sum().item()
        assert widest == pytest.approx(1 / (2 * factor * np.mean(1 / grid[:-1])), rel=1e-12)
        assert 1 / (2 * factor * np.mean(1 / grid[1:-1])) / widest == pytest.approx(1.0144, abs=5e-5)
    sound = BoundedDiffusionClassifier(Halves(), 2, nodes, "flat", None)
    white = torch.zeros(1, 3, 32, 32, dtype=F64)  # the farthest reach: r = 4 D
    ratio = slopes(sound, white).sum() / reference_slopes(dc, 3072).sum()
    level = dc.bound.sigma
    expected = 8 * math.sqrt(2 / math.pi) / level + 8 / math.sqrt(3072)
    assert ratio.item() == pytest.approx(expected.sum().item() / (2 * factor * np.mean(1 / grid[:-1])))
    assert ratio > 120
    few = NoisedDiffusionClassifier(Halves(), 2, 0.0, "dc", Nodes(7, "log", 0.5, 3.0), "flat")
    assert len(reference_slopes(few, 1)) == 7


def test_the_papers_constant_is_unsound_at_large_noise():
    """Its radius reaches beyond the boundary at x = 0, 0.05 pixels away: 1 / s_i has no place in the target's part."""
    dc, image = narrow(10.0, Opposite()), point(0.1)
    (claim,) = Claimed(2, constants="paper").certify(dc, image, noise(1))
    assert claim.radius > 0.05
    assert claim.radius == pytest.approx(0.4 / (2 * 4 / 5 * (math.sqrt(2 / math.pi) + 2) / 1), rel=1e-5)
    assert 0 < Lipschitz(2, 3000, law="weak").certify(dc, image, noise(1))[0].radius < 0.05


def test_the_papers_constant_is_loose_elsewhere():
    """At small noise twice the sound one, which is attained."""
    dc = narrow(0.01, Halves())
    ratio = paper_slopes(dc, 1).sum() / slopes(dc, point(-1.0)).sum()
    assert ratio.item() > 2


def test_claims_are_marked():
    dc = NoisedDiffusionClassifier(Halves(-0.5), 2, 0.0, "dc", Nodes(4, sigma_min=0.1))
    claims = Claimed(2).certify(dc, point(-0.9), noise(1))
    assert (claims[0].sound, claims[0].p_lower, claims[0].samples) == (False, 0.0, 1)
    logits = dc(point(-0.9), noise(1).draws(1))[0]
    gap = (logits[0] - logits[1]).abs().item()
    assert claims[0].radius == pytest.approx(gap / reference_slopes(dc, 1).sum().item())


# Contradictory settings ----------------------------------------------------------------------------------------------


PLAIN = NoisedDiffusionClassifier(Halves(), 2, 0.0, "dc")
NOISED = NoisedDiffusionClassifier(Halves(), 2, 0.25)
BOUNDED = narrow(0.1, Halves())
IMAGE = point(0.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Lipschitz(1), "num_classes must be an integer >= 2"),
        (lambda: Lipschitz(2, samples=1), "must be an integer >= 2; got 1"),
        (lambda: Lipschitz(2, samples=math.nan), "must be an integer >= 2; got nan"),
        (lambda: Lipschitz(2, alpha=1.0), "alpha"),
        (lambda: Lipschitz(2, law="strict"), "law must be"),
        (lambda: Lipschitz(2).certify(PLAIN, IMAGE, noise(1)), "BoundedDiffusionClassifier; got a Noised"),
        (lambda: Lipschitz(3).certify(BOUNDED, IMAGE, noise(1)), "classifier's, 2; got 3"),
        (lambda: Lipschitz(2).certify(BOUNDED, IMAGE, noise(2)), "1 images, 2 rows"),
        (lambda: Claimed(1), "num_classes must be an integer >= 2"),
        (lambda: Claimed(2, samples=0), "must be an integer >= 1; got 0"),
        (lambda: Claimed(2, constants="sound"), "constants must be"),
        (lambda: Claimed(2).certify(NOISED, IMAGE, noise(1)), "variant 'dc'"),
        (lambda: Claimed(3).certify(PLAIN, IMAGE, noise(1)), "classifier's, 2; got 3"),
        (lambda: Claimed(2).certify(PLAIN, IMAGE, noise(2)), "1 images, 2 rows"),
        (lambda: BoundedDiffusionClassifier(Halves(), 2, limit=0.0), "limit"),
        (lambda: BoundedDiffusionClassifier(Halves(), 3), "the denoiser's, 2"),
    ],
)
def test_contradictions_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("certifier", [Lipschitz(3, 20), Lipschitz(3, 20, law="weak"), Claimed(3)])
def test_nan_losses_give_no_certificate(certifier):
    class Broken(Steep):
        def forward(self, x, sigma, label=None):
            return super().forward(x, sigma, label) + torch.where(label == 2, math.nan, 0.0).view(-1, 1, 1, 1)

    dc = BoundedDiffusionClassifier(Broken(0), 3, Nodes(3, "log", 0.25, 1.0), "lognormal", None)
    with pytest.raises(ValueError, match="a certificate needs finite losses; got NaN or infinity"):
        certifier.certify(dc, point(0.1, 0.1), Noise.of(0, torch.tensor([0])))


@pytest.mark.parametrize("law", ["strong", "weak"])
def test_samples_that_never_certify_are_refused(law):
    """Empirical Bernstein without variance, 1 > 14 ln(2 / level) / (3 (n - 1)) at alpha or alpha / 2 over K (K - 1)."""
    level = 0.001 / (2 if law == "weak" else 4)
    least = math.floor(1 + 14 / 3 * math.log(2 / level)) + 1
    with pytest.raises(ValueError, match=f"samples = {least - 1} draws never certify at alpha = 0.001, 2 classes"):
        Lipschitz(2, least - 1, law=law).check(narrow(0.1, Halves()), point(-0.9), noise(1))
    Lipschitz(2, least, law=law).check(narrow(0.1, Halves()), point(-0.9), noise(1))
    prior = BoundedDiffusionClassifier(Halves(), 2, 4, posterior=Posterior(1.0, [0.0, -1e6]))
    Lipschitz(2, 2, law=law).check(prior, point(-0.9), noise(1))  # the prior alone decides
