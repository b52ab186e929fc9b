"""Preconditions of certifiers: sound classifiers without noise on the image, and equal noise levels."""

from dataclasses import dataclass

import lightning as L
import pytest
import torch

from common.exact import ExactDenoiser
from common.noise import Noise
from common.robustness.certification.certificate import Certificate, Certifier
from common.robustness.evaluation.clean_and_certified import Certified
from ndc.bounded import BoundedDiffusionClassifier
from ndc.claimed import Claimed
from ndc.classifier import NoisedDiffusionClassifier
from ndc.lipschitz import Lipschitz
from ndc.task import NDCTask
from tests.ndc.certified_worlds import SIGMA, Nearest, Samples, defence, world

# Certifiers without noise on the image -------------------------------------------------------------------------------


class Faulty(ExactDenoiser):
    """The mixture's denoiser with a fault: it reads other rows, or draws noise of its own."""

    def __init__(self, fault):
        super().__init__(world())
        self.fault = fault

    def forward(self, x, sigma, label=None):
        denoised = super().forward(x, sigma, label)
        return denoised + 0.5 * (x.roll(1, 0) if self.fault == "rows" else torch.randn_like(x))


class FixedNoise(BoundedDiffusionClassifier):
    """The same noise in every draw."""

    def _terms(self, image, noise):
        return super()._terms(image, Noise.of(0, torch.zeros(len(image), dtype=torch.int64)))


def certify_on_clean_images(dc, certifier, records):
    task = NDCTask(dc, [Certified(certifier)], str(records))
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, inference_mode=False)
    trainer.test(task, Samples(batch_size=4), verbose=False)


EXPECTED_LOGITS = pytest.mark.parametrize(
    "certifier", [Lipschitz(4, samples=100), Claimed(4)], ids=["Lipschitz", "Claimed"]
)


@EXPECTED_LOGITS
def test_certifiers_without_noise_accept_a_sound_classifier(tmp_path, certifier):
    certify_on_clean_images(BoundedDiffusionClassifier(ExactDenoiser(world()), 4, 4), certifier, tmp_path)
    assert (tmp_path / "records.jsonl").exists()


class Unconditional(ExactDenoiser):
    """The same image for every class, as by a network at the start of its training."""

    def forward(self, x, sigma, label=None):
        return super().forward(x, sigma, None if label is None else torch.zeros_like(label))


@EXPECTED_LOGITS
def test_certifiers_without_noise_accept_logits_that_no_noise_changes(tmp_path, certifier):
    """All bounded losses are 0. Its own draws show in the losses before they are limited."""
    certify_on_clean_images(BoundedDiffusionClassifier(Unconditional(world()), 4, 4), certifier, tmp_path)
    assert (tmp_path / "records.jsonl").exists()


@EXPECTED_LOGITS
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("rows", "depend on its place in the batch or on the other rows"),
        ("random", "a repeatable classifier: this one gives other logits for the same images and the same noise"),
        ("fixed", "gives the same logits for any `noise`"),
    ],
)
def test_certifiers_without_noise_refuse_unsound_classifiers(tmp_path, certifier, fault, message):
    """They average over the classifier's own noise, so that must be fresh in every draw."""
    if fault == "fixed":
        dc = FixedNoise(ExactDenoiser(world()), 4, 4)
    else:
        dc = BoundedDiffusionClassifier(Faulty(fault), 4, 4)
    with pytest.raises(ValueError, match=message) as error:
        certify_on_clean_images(dc, certifier, tmp_path)
    assert "noisy image" not in str(error.value)
    assert not list(tmp_path.glob("part-*.jsonl"))


class FixedLosses(BoundedDiffusionClassifier):
    """Its losses, which a claim reads, have the same noise in every draw; the losses before the limit do not."""

    def losses(self, image, noise=None):
        return super().losses(image, Noise.of(0, torch.zeros(len(image), dtype=torch.int64)))


class RandomBeforeLimit(ExactDenoiser):
    """Errors that change from call to call; under a low limit the logits do not."""

    def forward(self, x, sigma, label=None):
        return super().forward(x, sigma, label) * (1 - 0.2 * torch.rand(()))


def one_image():
    return torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(0)), Noise.of(0, torch.tensor([0]))


def test_a_claim_checks_the_losses_of_a_subclass():
    with pytest.raises(ValueError, match="gives the same logits for any `noise`"):
        Claimed(4).check(FixedLosses(ExactDenoiser(world()), 4, 4), *one_image())


@EXPECTED_LOGITS
def test_a_check_of_the_logits_does_not_stand_for_a_check_of_the_losses(certifier):
    """Both are at noise level 0: the logits pass, the losses that the certificate reads are refused all the same."""
    torch.manual_seed(0)  # by chance the rows of a batch differ too
    dc = BoundedDiffusionClassifier(RandomBeforeLimit(world()), 4, 4, limit=1e-6)
    Own(0.0).check(dc, *one_image())
    with pytest.raises(ValueError, match="a repeatable classifier"):
        certifier.check(dc, *one_image())


def test_a_claim_reads_the_losses_that_it_checked():
    """Losses twice as large give radii twice as large."""

    class Doubled(Claimed):
        def _losses(self, dc, image, noise):
            return 2 * super()._losses(dc, image, noise)

    for dc in (
        NoisedDiffusionClassifier(ExactDenoiser(world()), 4, 0.0, "dc", 4),
        BoundedDiffusionClassifier(ExactDenoiser(world()), 4, 4, limit=None),
    ):
        (once,), (twice,) = (kind(4).certify(dc, *one_image()) for kind in (Claimed, Doubled))
        assert once.radius > 0
        assert twice.radius == pytest.approx(2 * once.radius, rel=1e-6)


class OwnForward(BoundedDiffusionClassifier):
    def forward(self, image, noise=None):
        return -super().forward(image, noise)


class OwnLogits(BoundedDiffusionClassifier):
    def logits(self, losses, dimension):
        return -super().logits(losses, dimension)


class OwnLosses(BoundedDiffusionClassifier):
    def losses(self, image, noise=None):
        return -super().losses(image, noise)


class OwnUnlimited(BoundedDiffusionClassifier):
    def unlimited(self, image, noise=None):
        return 2 * super().unlimited(image, noise)


class OwnLimited(BoundedDiffusionClassifier):
    def limited(self, losses, dimension):
        return 2 * super().limited(losses, dimension)


class OwnTermBounds(BoundedDiffusionClassifier):
    def term_bounds(self, image):
        return super().term_bounds(image) / 2


@pytest.mark.parametrize("law", ["strong", "weak"])
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (OwnForward, "forward"),
        (OwnLogits, "logits"),
        (OwnLosses, "losses"),
        (OwnUnlimited, "unlimited"),
        (OwnLimited, "limited"),
        (OwnTermBounds, "term_bounds"),
    ],
)
def test_lipschitz_certifies_only_the_function_that_predicts(kind, name, law):
    """The bounds are about the methods of the class itself: a subclass with its own would get another's radius."""
    dc, certifier = kind(ExactDenoiser(world()), 4, 4), Lipschitz(4, samples=5, law=law)
    for use in (certifier.check, certifier.certify):
        with pytest.raises(ValueError, match=f"{kind.__name__} overrides {name}"):
            use(dc, *one_image())


def test_a_claim_is_about_the_function_that_predicts():
    dc, certifier = OwnForward(ExactDenoiser(world()), 4, 4), Claimed(4)
    for use in (certifier.check, certifier.certify):
        with pytest.raises(ValueError, match="OwnForward overrides forward"):
            use(dc, *one_image())


def test_lipschitz_accepts_a_subclass_with_the_same_predictions():
    class Named(BoundedDiffusionClassifier):
        """A subclass with a fixed limit."""

        def __init__(self):
            super().__init__(ExactDenoiser(world()), 4, 4, limit=0.5)

    given = [Lipschitz(4, samples=100).certify(dc, *one_image())[0] for dc in (Named(), bounded(limit=0.5))]
    assert given[0] == given[1]


def bounded(**settings):
    return BoundedDiffusionClassifier(ExactDenoiser(world()), 4, 4, **settings)


# Noise levels of certifier and classifier ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Own(Certifier):
    """A certifier of one's own; beside ``sigma`` it may use ``further`` noise levels."""

    sigma: float | str = SIGMA
    num_classes: int = 4
    further: tuple[float, ...] = ()

    @property
    def noise_levels(self):
        return (self.level, *self.further)

    def certify(self, classifier, image, noise):
        return [Certificate(0, 0.0, 0.5, 1)] * len(image)


def test_every_noise_level_of_a_certifier_must_be_the_classifiers():
    classifier = defence("all classes", 512)
    NDCTask(classifier, [Certified(Own())])
    with pytest.raises(ValueError, match=r"noise of sigma 1\.0 \(pixels\), the classifier expects 0\.25"):
        NDCTask(classifier, [Certified(Own(further=(1.0,)))])


@pytest.mark.parametrize("level", ["64/255", 64 / 255])
def test_noise_levels_are_compared_as_numbers(level):
    classifier = Nearest(world().means)
    classifier.sigma = level
    for sigma in ("64/255", 64 / 255):
        NDCTask(classifier, [Certified(Own(sigma))])
    with pytest.raises(ValueError, match="same value"):
        NDCTask(classifier, [Certified(Own("63/255"))])
