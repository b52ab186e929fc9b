"""Images, labels and noise are checked where they enter, and the outputs of parts from elsewhere where they return."""

import sys
import warnings

import pytest
import torch
from torch import nn

from agdm.purifier import AGDM
from common.diffusion.composed import Chain, FixedNoise, Repeated, Resized
from common.diffusion.denoisers import EDMDenoiser, EpsDenoiser
from common.diffusion.wrappers import ClassifierFree, Clipped
from common.noise import Noise
from common.robustness import (
    APGD,
    FAB,
    PGD,
    AutoAttack,
    Classifier,
    Clean,
    NetworkClassifier,
    Purified,
    Sequential,
    Smoothing,
    Square,
    Staged,
    ThreatModel,
    Voting,
)
from common.units import to_model
from diffpure.langevin import LangevinDiffPure
from diffpure.likelihood_maximisation import LikelihoodMaximisation
from diffpure.purifier import DiffPure
from ndc import NoisedDiffusionClassifier
from tests.defences import CLASSES, batch, denoiser, guidance, head

IMAGE, LABEL, INDEX = batch(3)
NOISE, BALL = Noise.of(0, INDEX), ThreatModel("inf", 0.1)
SMOOTHING = {"sigma": 0.25, "n0": 20, "n": 40, "alpha": 0.01, "num_classes": CLASSES}

ENTRIES = {
    "attack": lambda x: PGD(2)(head(), x, LABEL, BALL, NOISE),
    "ensemble": lambda x: AutoAttack("rand", steps=2, eot=1)(head(), x, LABEL, BALL, NOISE),
    "staged": lambda x: Staged()(head(), x, LABEL, BALL, NOISE),
    "certifier": lambda x: Smoothing(**SMOOTHING).certify(head(), x, NOISE),
    "sequential": lambda x: Sequential(**SMOOTHING, targets=(0.1,), first=20).certify(head(), x, NOISE),
    "prediction": lambda x: Smoothing(**SMOOTHING).predict(head(), x, NOISE),
    "purifier": lambda x: DiffPure(denoiser(), 0.1, steps=2)(x, NOISE),
    "resized": lambda x: Resized(DiffPure(denoiser(), 0.1, steps=2), 8)(x, NOISE),
    "langevin": lambda x: LangevinDiffPure(denoiser(), 0.1, steps=2)(x, NOISE),
    "likelihood": lambda x: LikelihoodMaximisation(denoiser(), 2)(x, NOISE),
    "evaluator": lambda x: Clean()(head(), (x, LABEL, INDEX)),
}
LAYOUTS = {
    "classifier": lambda x: head()(x),
    "voting": lambda x: Voting(Purified(DiffPure(denoiser(), 0.1, steps=2), head()), 2)(x, NOISE),
    "ndc": lambda x: NoisedDiffusionClassifier(denoiser(), CLASSES, 0.25, nodes=2)(x, NOISE),
}


@pytest.mark.parametrize("name", ENTRIES)
def test_images_are_finite_floats_in_pixels(name):
    for wrong in (IMAGE.mul(255).byte(), IMAGE[0], IMAGE * 255, IMAGE / 0, IMAGE.numpy()):
        with pytest.raises(ValueError, match=r"images? must be|three tensors"):
            ENTRIES[name](wrong)


@pytest.mark.parametrize("name", LAYOUTS)
def test_classifiers_refuse_integers(name):
    for wrong in (IMAGE.mul(255).byte(), IMAGE[0]):
        with pytest.raises(ValueError, match="images must be floats"):
            LAYOUTS[name](wrong)


@pytest.mark.parametrize("attack", [PGD(2), APGD(2), FAB(2), Square(3), Staged()], ids=lambda one: type(one).__name__)
def test_attacks_take_a_class_and_a_row_of_noise_per_image(attack):
    for label in (LABEL[:2], LABEL.float(), LABEL + CLASSES, LABEL - 1):
        with pytest.raises(ValueError, match="label"):
            attack(head(), IMAGE, label, BALL, NOISE)
    with pytest.raises(ValueError, match="a row of noise per image"):
        attack(head(), IMAGE, LABEL, BALL, Noise.of(0, INDEX[:2]))
    with pytest.raises(ValueError, match="half precision"):
        attack(head(), IMAGE.half(), LABEL, BALL, NOISE)


class Bent(nn.Module):
    """A part whose output is changed."""

    num_classes, sigma_min, sigma_max, randomised = CLASSES, 0.0, 1e9, False

    def __init__(self, change):
        super().__init__()
        self.change = change

    def forward(self, x, *others):
        return self.change(x)

    def gradient(self, x, sigma, reference):
        return self.change(x)


CHANGES = {
    "one row": lambda x: x[:1],
    "another height": lambda x: x[:, :, :1],
    "no channel": lambda x: x[:, 0],
    "integers": lambda x: x.long(),
    "a list": lambda x: [x],
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_parts_return_what_they_are_given(change):
    """A row or a height of one would be broadcast against the image without a word."""
    bent, plain = Bent(change), DiffPure(denoiser(), 0.1, steps=2)
    label = torch.zeros(len(IMAGE), dtype=torch.int64)
    calls = [
        lambda: DiffPure(bent, 0.1, steps=2)(IMAGE, NOISE),
        lambda: LangevinDiffPure(bent, 0.1, steps=2)(IMAGE, NOISE),
        lambda: LikelihoodMaximisation(bent, 2)(IMAGE, NOISE),
        lambda: AGDM(bent, guidance(), 0.1, steps=2)(IMAGE, NOISE),
        lambda: AGDM(denoiser(), bent, 0.1, steps=2)(IMAGE, NOISE),
        lambda: Purified(bent, head())(IMAGE, NOISE),
        lambda: Chain([plain, bent])(IMAGE, NOISE),
        lambda: Clipped(bent)(IMAGE, torch.ones(3)),
        lambda: ClassifierFree(bent)(IMAGE, torch.ones(3), label),
        lambda: NoisedDiffusionClassifier(bent, CLASSES, 0.25, nodes=2)(IMAGE, NOISE),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="must return floats of shape"):
            call()


def test_networks_of_denoisers_return_an_image():
    for change in (CHANGES["one row"], CHANGES["another height"]):
        for wrapped in (EDMDenoiser(Bent(change)), EpsDenoiser(Bent(change))):
            with pytest.raises(ValueError, match="a denoiser's network must return floats of shape"):
                wrapped(IMAGE, torch.ones(3))


def test_another_dtype_is_refused():
    with pytest.raises(ValueError, match=r"must return torch\.float32"):
        DiffPure(Bent(lambda x: x.double()), 0.1, steps=2)(IMAGE, NOISE)


def test_a_purifier_returns_finite_images():
    with pytest.raises(ValueError, match=r"finite images; got NaN or infinity in rows \[1\]"):
        Purified(Bent(lambda x: x / torch.tensor([1.0, 0.0, 1.0]).view(3, 1, 1, 1)), head())(IMAGE, NOISE)


def silent(call):
    """True for a call without a warning."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return not caught


COMPOSED = {
    "purified": lambda bent: Purified(bent, head()),
    "chain": lambda bent: Chain([bent, Bent(lambda x: x)]),
    "repeated": lambda bent: Repeated(bent, 1),
    "resized": lambda bent: Resized(bent, 8),
    "fixed noise": FixedNoise,
}


@pytest.mark.parametrize("made", COMPOSED.values(), ids=COMPOSED)
def test_a_purifier_in_the_model_frame_is_refused(made):
    """Images of [-1,1] that resemble the input, also dark, bright-edged, of one value, rough, or of one image."""
    image = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    for clean in (image, image**4, torch.full_like(image, 0.3), image.round(), image[:1]):
        noise = Noise.of(0, torch.arange(len(clean)))
        for rough in (0.0, 0.1):
            bent = Bent(lambda x, rough=rough: to_model(x) + rough * torch.sin(50 * x))
            with pytest.raises(ValueError, match=r"pixels in \[0,1\]; got .* images of \[-1,1\]"):
                made(bent)(clean, noise)


@pytest.mark.parametrize("made", COMPOSED.values(), ids=COMPOSED)
def test_a_purifier_of_another_frame_is_warned_of(made):
    image = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    noise = Noise.of(0, torch.arange(3))
    for change in (lambda x: (x - 0.45) / 0.225, lambda x: 3 * x, lambda x: torch.sin(90 * x)):
        with pytest.warns(UserWarning, match="more than 25% of its values are outside"):
            made(Bent(change))(image, noise)


@pytest.mark.parametrize("made", COMPOSED.values(), ids=COMPOSED)
def test_a_purifier_in_pixels_passes_without_a_word(made):
    """Unclipped, inverted, dark, or of too much contrast: pixels near [0,1]."""
    image = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    noise = Noise.of(0, torch.arange(3))
    for change in (lambda x: 1.3 * x - 0.15, lambda x: 1 - x, lambda x: 0 * x - 0.05, lambda x: x + 0.1):
        assert silent(lambda change=change: made(Bent(change))(image, noise))


class Logits(Classifier):
    """Classifier with changed logits."""

    def __init__(self, change):
        super().__init__()
        self.inner, self.change = head(), change

    def forward(self, image, noise=None):
        return self.change(self.inner(image))


@pytest.mark.parametrize(
    "change",
    [lambda z: z[:1], lambda z: z[:, 0], lambda z: (z,), lambda z: z.long()],
    ids=["row", "vector", "tuple", "int"],
)
def test_classifiers_return_logits(change):
    bent = Logits(change)
    bent.randomised = True
    for call in (
        lambda: Clean()(bent, (IMAGE, LABEL, INDEX)),
        lambda: PGD(2)(bent, IMAGE, LABEL, BALL, NOISE),
        lambda: Square(3)(bent, IMAGE, LABEL, BALL, NOISE),
        lambda: Smoothing(**SMOOTHING).certify(bent, IMAGE, NOISE),
        lambda: Voting(bent, 2)(IMAGE, NOISE),
    ):
        with pytest.raises(ValueError, match=r"returns logits \(B, K\)"):
            call()


class Escaping(ThreatModel):
    """A ball whose projection returns NaN."""

    def project(self, image, adv):
        return super().project(image, adv) * torch.nan


@pytest.mark.parametrize(
    "attack", [PGD(3), APGD(3), Staged(pool=0, pool_targets=0)], ids=lambda one: type(one).__name__
)
def test_an_iterate_that_is_not_finite_ends_an_attack(attack):
    with pytest.raises(RuntimeError, match="an iterate of the attack is not finite"):
        attack(head(), IMAGE, LABEL, Escaping("inf", 0.1), NOISE)


class Broken(nn.Module):
    """Logits 8 x_k of the first five pixels."""

    def forward(self, x):
        return 8 * x.flatten(1)[:, :5]


@pytest.mark.parametrize(
    "attack",
    [
        PGD(10, restarts=3, early_stop=True),
        APGD(10, restarts=2, early_stop=True),
        APGD(10, loss="targeted_margin", targets=3, restarts=2, early_stop=True),
        FAB(10, targets=3, early_stop=True),
        Square(200, early_stop=True),
        AutoAttack(steps=5, queries=5),
    ],
    ids=lambda one: type(one).__name__,
)
def test_early_stop_with_all_images_broken(attack):
    image = torch.full((3, 1, 4, 4), 0.5)
    image[:, 0, 0, 1] = 0.6
    classifier, label = NetworkClassifier(Broken()), torch.ones(3, dtype=torch.int64)
    adv = attack(classifier, image, label, ThreatModel("inf", 0.3), NOISE)
    assert not bool((classifier(adv).argmax(1) == label).any())


def test_the_default_autoattack_imports_no_module_of_its_name(tmp_path, monkeypatch):
    (tmp_path / "autoattack.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    AutoAttack("rand", steps=2, eot=1)(head(), IMAGE, LABEL, BALL, NOISE)
    assert AutoAttack().implementation == AutoAttack("rand").implementation == "assembled"
    assert "autoattack" not in sys.modules
