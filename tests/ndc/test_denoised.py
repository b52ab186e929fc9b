"""Classifiers behind a denoiser: the exact posterior mean, exact posterior samples, votes, and sound certificates."""

import math

import pytest
import torch

from common.diffusion.denoisers import Denoiser
from common.diffusion.schedules import DDPM, EDM, VP
from common.exact import ExactDenoiser, GaussianMixture
from common.noise import Noise
from common.robustness.certification.preconditions import check_sound
from common.robustness.certification.smoothing import Smoothing
from common.robustness.classifiers import Classifier
from common.robustness.evaluation.clean_and_certified import Certified
from common.robustness.gradient_check.classifier_check import GradientCheck, failure_message
from common.units import to_model, to_pixel
from ndc.denoised import DenoisedClassifier, Denoising
from ndc.task import NDCTask

F64 = torch.float64
STD = 0.4  # of a single Gaussian's pixels, in the model frame: its posterior is a Gaussian too


class Side(Classifier):
    """Class 1 where the mean pixel is above 1/2."""

    def forward(self, image, noise=None):
        side = image.flatten(1).mean(1) - 0.5
        return torch.stack((-side, side), 1)


class Narrow(Denoiser):
    sigma_min, sigma_max = 0.1, 1.0

    def forward(self, x, sigma, label=None):
        return x


@pytest.fixture(scope="module")
def gaussian():
    """One Gaussian around the grey image of four pixels: D(x, sigma) = x STD^2 / (STD^2 + sigma^2)."""
    return ExactDenoiser(GaussianMixture(torch.zeros(1, 1, 2, 2, dtype=F64), STD))


def noise(count, seed=0):
    return Noise.of(seed, torch.arange(count))


# Denoised images -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [VP(), EDM(), DDPM()])
@pytest.mark.parametrize("sigma", [0.25, "64/255"])
def test_one_step_is_the_posterior_mean_for_any_schedule(exact, schedule, sigma):
    level = {0.25: 0.5, "64/255": 128 / 255}[sigma]
    image = torch.rand(5, 1, 1, 2, dtype=F64, generator=torch.Generator().manual_seed(0)) * 2 - 0.5
    expected = to_pixel(exact(to_model(image), torch.full((5,), level, dtype=F64)))
    denoising = Denoising(exact, sigma, schedule=schedule)
    torch.testing.assert_close(denoising(image, noise(5)), expected, rtol=1e-10, atol=1e-10)
    assert not denoising.randomised
    classifier = DenoisedClassifier(exact, Side(), sigma, schedule=schedule)
    assert not classifier.randomised
    torch.testing.assert_close(classifier(image), Side()(expected), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("schedule", "sigma"), [(VP(), 0.25), (VP(), 1.0), (EDM(), 0.25)])
def test_many_steps_sample_the_posterior_of_the_noisy_image(gaussian, schedule, sigma):
    """Its mean and variance, of 16,000 numbers in 200 steps: 4 standard errors, and 2 % of the variance for the steps.

    Were noise added once more, as a purifier does, the mean would be drawn further to the grey image.
    """
    level = 2 * sigma
    image = torch.tensor([0.9, 0.2, 0.5, 1.3], dtype=F64).view(1, 1, 2, 2)
    denoising = Denoising(gaussian, sigma, 200, schedule=schedule)
    assert denoising.randomised
    drawn = to_model(denoising(image.expand(4000, 1, 2, 2), noise(4000)))
    shrink = STD**2 / (STD**2 + level**2)
    variance = shrink * level**2
    error = math.sqrt(variance / 4000)
    assert ((drawn.mean(0) - shrink * to_model(image)[0]).abs() < 4 * error + 2e-3).all()
    assert drawn.var(0).mean().item() == pytest.approx(variance, rel=0.02 + 4 * math.sqrt(2 / 16_000))


@pytest.mark.parametrize("steps", [2, 5])
def test_the_randomness_is_independent_of_the_image_and_of_the_batch(gaussian, steps):
    """A Gaussian's denoiser is linear, so the effect of the noise can be isolated: it is the same for any image and
    batch, and differs between rows."""
    denoising = Denoising(gaussian, 0.25, steps)
    images = torch.rand(6, 1, 2, 2, dtype=F64, generator=torch.Generator().manual_seed(1)) * 3 - 1
    none = Denoising(gaussian, 0.25, steps, solver="ddim")
    rows = noise(6).draws(3).rows(torch.arange(0, 18, 3))
    ancestral = denoising(images, rows) - denoising(torch.zeros_like(images), rows)
    other = denoising(images, rows.stream("other")) - denoising(torch.zeros_like(images), rows.stream("other"))
    torch.testing.assert_close(ancestral, other, rtol=1e-9, atol=1e-12)
    turned = torch.tensor([4, 1])
    torch.testing.assert_close(denoising(images, rows)[turned], denoising(images[turned], rows.rows(turned)))
    added = denoising(images[:1].expand(6, 1, 2, 2), rows)
    assert len({f"{value:.9f}" for value in added.flatten().tolist()}) == 24
    assert torch.equal(none(images, rows), none(images, rows.stream("other")))


def test_the_start_is_the_noisy_image_itself(gaussian):
    denoising = Denoising(gaussian, 0.5, 4)
    image = torch.rand(2, 1, 2, 2, dtype=F64, generator=torch.Generator().manual_seed(1))
    scale = 1 / math.sqrt(1 + 1.0**2)  # VP's at sigma = 1
    torch.testing.assert_close(denoising.diffuse(image, noise(2)), to_pixel(scale * to_model(image)))
    views = DenoisedClassifier(gaussian, Side(), 0.5, 4, 3).views(image, noise(2))
    assert sorted(views) == ["diffused", "purified"]
    assert views["purified"].shape == image.shape


# Classification and certificates -------------------------------------------------------------------------------------


def test_votes_are_those_of_as_many_clean_images(gaussian):
    image = to_pixel(torch.tensor([0.0, 0.1, -0.5, 0.3], dtype=F64).view(4, 1, 1, 1).expand(4, 1, 2, 2))
    denoising, voting = Denoising(gaussian, 0.5, 4), DenoisedClassifier(gaussian, Side(), 0.5, 4, 9)
    rows = noise(4, seed=3)
    answers = torch.stack([Side()(denoising(image, rows.draws(9).rows(torch.arange(4) * 9 + j))) for j in range(9)])
    votes = answers.argmax(2).sum(0)  # for class 1
    assert torch.equal(voting(image, rows).argmax(1), (votes > 4).long())
    assert 0 < votes[0] < 9
    single = DenoisedClassifier(gaussian, Side(), 0.5, 4)
    torch.testing.assert_close(single(image, rows), Side()(denoising(image, rows)))


@pytest.mark.parametrize(("steps", "votes"), [(1, 1), (3, 1), (3, 4)])
def test_gradients_are_those_of_the_logits(exact, steps, votes):
    class Linear(Classifier):
        def forward(self, image, noise=None):
            return image.flatten(1) @ torch.tensor([[1.0, -1.0, 0.5], [0.2, 0.7, -1.0]], dtype=F64)

    classifier = DenoisedClassifier(exact, Linear(), 0.25, steps, votes)
    image = torch.rand(2, 1, 1, 2, dtype=F64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: classifier(x, noise(2)), image)


@pytest.mark.parametrize(("steps", "votes"), [(1, 1), (3, 1), (3, 4)])
def test_its_gradient_passes_the_verification_before_an_attack(exact, steps, votes):
    classifier = DenoisedClassifier(exact, Side(), 0.25, steps, votes).freeze()
    image = torch.rand(2, 1, 1, 2, generator=torch.Generator().manual_seed(0))
    rows = GradientCheck()(classifier, (image, torch.tensor([0, 1]), torch.arange(2)))
    assert failure_message(rows) == ""
    findings = [finding for row in rows for finding in row.findings]
    assert {"time grids", "recomputed states", "full graph"} <= {finding.name for finding in findings}


@pytest.mark.parametrize(("steps", "votes", "close"), [(1, 1, 0.04), (4, 5, 0.09)])
def test_certificates_are_sound_and_tight_on_a_half_space(gaussian, steps, votes, close):
    """A linear denoiser leaves the boundary where it was: grey. The truth is the distance to it, sqrt(D) |mean - 1/2|.

    4 certificates at alpha = 0.001, from 4,000 samples: below the truth by up to 5 standard errors, 0.035 pixels. Votes
    draw noise of their own besides, which takes a little.
    """
    distance = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=F64)
    image = (0.5 + distance / 2).view(4, 1, 1, 1).expand(4, 1, 2, 2)
    classifier = DenoisedClassifier(gaussian, Side(), 0.25, steps, votes)
    smoothing = Smoothing(0.25, n0=100, n=4000, num_classes=2, batch_size=2048)
    for found, truth in zip(smoothing.certify(classifier, image, noise(4)), distance.tolist(), strict=True):
        assert found.prediction == 1
        assert truth - close < found.radius <= truth
    for seed in range(5):
        check_sound(classifier, image[:1], 0.25, noise(1, seed))


# Contradictory settings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sigma": 0.0}, "sigma, the noise in the image, must be above 0, in pixel units; got 0.0"),
        ({"sigma": -0.25}, "above 0, in pixel units; got -0.25"),
        ({"sigma": math.nan}, "above 0, in pixel units; got nan"),
        ({"sigma": math.inf}, "above 0, in pixel units; got inf"),
        ({"sigma": "quarter"}, "must be a number or a ratio"),
        ({"sigma": 0.04}, r"denoiser's range 0\.1 \.\. 1 \(model frame\); got 0\.08"),
        ({"sigma": 0.51}, r"denoiser's range 0\.1 \.\. 1 \(model frame\); got 1\.02"),
        ({"steps": 0}, "steps must be an integer >= 1"),
        ({"steps": 2, "votes": 0}, "votes must be an integer >= 1"),
        ({"votes": 2}, "2 votes need randomness"),
        ({"steps": 3, "votes": 2, "solver": "ddim"}, "2 votes need randomness"),
        ({"steps": 50}, "needs denoised images at noise levels"),
    ],
)
def test_contradictions_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DenoisedClassifier(Narrow(), Side(), **{"sigma": 0.25, **settings})


def test_the_task_takes_classifiers_with_a_noise_level(gaussian):
    evaluators = [Certified(Smoothing(0.25, n0=1, n=10, num_classes=2))]
    classifier = DenoisedClassifier(gaussian, Side(), 0.25)
    assert NDCTask(classifier, evaluators).classifier.classifier is classifier
    with pytest.raises(ValueError, match=r"smoothing adds noise of sigma 0\.25 .*expects 0\.5"):
        NDCTask(DenoisedClassifier(gaussian, Side(), 0.5), evaluators)
    with pytest.raises(ValueError, match=r"a Side has none.*common\.tasks\.RobustTask"):
        NDCTask(Side(), evaluators)
