"""Preconditions of certificates: checked for every certifier, every classifier and every noise level."""

from dataclasses import dataclass

import lightning as L
import pytest
import torch

from common.noise import Noise
from common.robustness.certification.certificate import Certificate, Certifier
from common.robustness.certification.preconditions import check_once, check_sound
from common.robustness.certification.smoothing import Smoothing
from common.robustness.classifiers import Classifier
from common.robustness.evaluation.clean_and_certified import Certified
from common.robustness.padding import Padded
from common.tasks.robust import RobustTask

SMALL, LARGE = 0.1, 0.5
REPEATABLE = "a certificate needs a repeatable classifier"


class Unrepeatable(Classifier):
    """Two classes; beyond a noise level its logits change from call to call.

    The level of one call is estimated from its rows, which are noisy copies of one image.
    """

    def __init__(self, above=0.0):
        super().__init__()
        self.above, self.calls = above, 0

    def forward(self, image, noise=None):
        self.calls += 1
        pixels = image.flatten(1)
        estimate = pixels.std(0).mean() if len(image) > 1 else torch.tensor(0.0)
        side = pixels[:, 0] + (self.calls if estimate > self.above else 0)
        return torch.stack((side, 1 - side), 1)


@dataclass(frozen=True)
class Constant(Certifier):
    """A user-defined certifier: class 0 at radius 0 for every image, after one call at each of two noise levels."""

    sigma: float = SMALL
    other: float = LARGE
    num_classes: int = 2

    @property
    def noise_levels(self):
        return (self.sigma, self.other)

    def certify(self, classifier, image, noise):
        return [Certificate(0, 0.0, 0.5, 1)] * len(image)


@dataclass(frozen=True)
class OneLevel(Certifier):
    """The least that a certifier declares."""

    sigma: float = LARGE
    num_classes: int = 2

    def certify(self, classifier, image, noise):
        return [Certificate(0, 0.0, 0.5, 1)] * len(image)


def image(size=16):
    return torch.full((1, 1, size, size), 0.5)


def row():
    return Noise.of(0, torch.tensor([0]))


def smoothing(sigma):
    return Smoothing(sigma, n0=1, n=2, alpha=0.3, num_classes=2)


class Images(torch.utils.data.Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return image()[0], 0, index


def run(evaluators, path):
    task = RobustTask(Unrepeatable(above=0.25), evaluators, str(path))
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False, inference_mode=False
    )
    trainer.test(task, torch.utils.data.DataLoader(Images(), batch_size=2), verbose=False)


def test_each_noise_level_is_checked():
    """The classifier passes at 0.1 and is refused at 0.5."""
    classifier = Unrepeatable(above=0.25)
    smoothing(SMALL).check(classifier, image(), row())
    with pytest.raises(ValueError, match=REPEATABLE):
        smoothing(LARGE).check(classifier, image(), row())
    with pytest.raises(ValueError, match=REPEATABLE):
        smoothing(LARGE).check(classifier, image(), row())  # a failure is not cached


def test_all_levels_of_a_certifier_are_checked():
    with pytest.raises(ValueError, match=REPEATABLE):
        Constant().check(Unrepeatable(above=0.25), image(), row())
    Constant(other=SMALL).check(Unrepeatable(above=0.25), image(), row())


@pytest.mark.parametrize("certifier", [OneLevel(), Constant()], ids=["one level", "two levels"])
def test_an_evaluator_checks_certifiers_that_are_no_smoothing(certifier):
    batch = image(), torch.tensor([0]), torch.tensor([0])
    with pytest.raises(ValueError, match=REPEATABLE):
        Certified(certifier)(Unrepeatable(above=0.25), batch)


def test_a_certifier_without_noise_is_checked_on_clean_images():
    assert OneLevel(sigma=0.0).noise_levels == (0.0,)
    with pytest.raises(ValueError, match=REPEATABLE):
        OneLevel(sigma=0.0).check(Unrepeatable(above=-1.0), image(), row())
    sound = Unrepeatable(above=0.0)
    OneLevel(sigma=0.0).check(sound, image(), row())
    assert sound.calls > 0


def test_classifiers_are_checked_one_by_one():
    """Two classifiers at the same level: the first passes, the second is checked all the same."""
    sound = Unrepeatable(above=9.0)
    smoothing(SMALL).check(sound, image(), row())
    with pytest.raises(ValueError, match=REPEATABLE):
        smoothing(SMALL).check(Unrepeatable(), image(), row())
    assert sound.calls > 0


def test_a_check_that_passed_is_not_repeated():
    classifier = Unrepeatable(above=9.0)
    check_once(classifier, image(), SMALL, row())
    calls = classifier.calls
    check_once(Padded(classifier), image(), SMALL, row())
    assert classifier.calls == calls
    check_once(classifier, image(), LARGE, row())
    assert classifier.calls == 2 * calls


def test_other_numbers_of_a_classifier_are_another_check():
    classifier = Unrepeatable(above=9.0)

    def counted(classifier, image, noise):
        return classifier(image, noise) + classifier.calls

    for _ in range(2):
        check_once(classifier, image(), 0.0, row())
        with pytest.raises(ValueError, match=REPEATABLE):
            check_once(classifier, image(), 0.0, row(), counted)
    calls = classifier.calls
    for _ in range(2):
        check_once(classifier, image(), 0.0, row(), Unrepeatable.forward)
    assert classifier.calls == calls + 5
    classifier.randomised = True
    with pytest.raises(ValueError, match="fresh noise"):
        check_once(classifier, image(), 0.0, row())


@pytest.mark.parametrize(
    "evaluators",
    [
        [Certified(smoothing(SMALL), name="small"), Certified(smoothing(LARGE), name="large")],
        [Certified(smoothing(SMALL), name="small"), Certified(OneLevel(), name="own")],
    ],
    ids=["second level", "own certifier"],
)
def test_a_test_checks_every_certifier_before_its_first_record(tmp_path, evaluators):
    with pytest.raises(ValueError, match=REPEATABLE):
        run(evaluators, tmp_path)
    assert not list(tmp_path.glob("*.jsonl"))


class Drifting(Classifier):
    """Logits that move by a share of their spread between noisy copies: from call to call or from row to row."""

    def __init__(self, share, kind):
        super().__init__()
        self.share, self.kind, self.calls = share, kind, 0

    def forward(self, image, noise=None):
        logits = 10 * image.flatten(1)[:, :2]
        spread = (logits - logits.mean(0)).abs().amax(1).mean()
        self.calls += 1
        moved = self.calls % 2 if self.kind == "call" else torch.arange(len(image))[:, None] % 3
        return logits + self.share * spread * moved


@pytest.mark.parametrize(("kind", "message"), [("call", REPEATABLE), ("row", "independent samples")])
@pytest.mark.parametrize("share", [0.005, 0.1, 0.3])
def test_logits_may_move_by_rounding_alone(kind, message, share):
    """By 0.5 % of their spread, as in reduced precision, but not by 10 %."""
    if share < 0.02:
        check_sound(Drifting(share, kind), image(), LARGE, row())
        return
    with pytest.raises(ValueError, match=message):
        check_sound(Drifting(share, kind), image(), LARGE, row())
