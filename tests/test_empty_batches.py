"""Empty batches are taken everywhere: by attacks, purifiers, classifiers, certifiers and evaluators."""

import pytest
import torch
from torch import nn

from agdm.purifier import AGDM
from common.diffusion.composed import Chain, FixedNoise, Repeated, Resized
from common.noise import Noise
from common.robustness import (
    APGD,
    FAB,
    PGD,
    Attacked,
    AutoAttack,
    Baseline,
    Certified,
    Clean,
    DiffAttack,
    DiffHammer,
    Forecast,
    FunctionAttack,
    GradientCheck,
    LowFrequency,
    Perceptual,
    Purified,
    Sequential,
    Smoothing,
    SpatialThreat,
    Square,
    StAdv,
    Staged,
    ThreatModel,
    Through,
    Transfer,
    Voting,
)
from diffpure import GradualNoise, LangevinDiffPure, LikelihoodMaximisation, RandomisedDiffPure
from diffpure.gradual import Block
from diffpure.purifier import DiffPure
from ndc import (
    BoundedDiffusionClassifier,
    Claimed,
    DenoisedClassifier,
    Elimination,
    Lipschitz,
    NoisedDiffusionClassifier,
)
from tests.defences import CLASSES, SIDE, denoiser, guidance, head

NONE = torch.zeros(0, 1, SIDE, SIDE)
NOBODY = torch.zeros(0, dtype=torch.int64)
NOISE = Noise.of(0, NOBODY)
BALL = ThreatModel("inf", 0.1)


def deterministic():
    return head()


def purified():
    return Purified(DiffPure(denoiser(), 0.1, steps=2), head())


ATTACKS = [
    (PGD(2, eot=2, restarts=2, early_stop=True), BALL),
    (PGD(2), ThreatModel(2, 0.5)),
    (APGD(2, restarts=2), ThreatModel(1, 2)),
    (APGD(2, loss="targeted_margin", targets=2), BALL),
    (FAB(2), BALL),
    (Square(3), ThreatModel(2, 0.5)),
    (StAdv(2, restarts=2), SpatialThreat()),
    (LowFrequency(2, kernels=(3,), eot=1), Perceptual(metric=nn.Identity())),
    (AutoAttack(steps=2, queries=3), BALL),
    (AutoAttack("rand", steps=2, eot=2), BALL),
    (Staged(), BALL),
    (DiffAttack(PGD(2)), BALL),
    (DiffHammer(PGD(2, eot=2)), BALL),
    (Through(PGD(2)), BALL),
    (Transfer(head(), PGD(2)), BALL),
    (FunctionAttack(lambda classifier, image, label, threat, noise: image[:1].repeat(5, 1, 1, 1)), BALL),
]


@pytest.mark.parametrize("make", [deterministic, purified])
def test_attacks(make):
    for attack, threat in ATTACKS:
        if make is purified or not isinstance(attack, DiffAttack | Through):
            result = attack.search(make(), NONE, NOBODY, threat, NOISE)
            assert result.adv.shape == NONE.shape, attack
            assert attack(make(), NONE, NOBODY, threat, NOISE).shape == NONE.shape, attack


def test_purifiers():
    plain = DiffPure(denoiser(), 0.1, steps=2)
    purifiers = [
        plain,
        DiffPure(denoiser(), 0.1, steps=2, solver="torchsde"),
        DiffPure(denoiser(), 0.1, steps=2, solver="ancestral"),
        DiffPure(denoiser(), 0.1, steps=2, solver="probability_flow_heun"),
        AGDM(denoiser(), guidance(), 0.1, steps=2),
        RandomisedDiffPure(denoiser(), 0.1, steps=2),
        LangevinDiffPure(denoiser(), 0.1, steps=2),
        LikelihoodMaximisation(denoiser(), 2),
        GradualNoise(denoiser(), [Block(0.03)]),
        Chain([plain, plain]),
        Repeated(plain, 2),
        Resized(plain, 8),
        FixedNoise(plain),
    ]
    for purifier in purifiers:
        assert purifier(NONE, NOISE).shape == NONE.shape, purifier
        assert purifier.diffuse(NONE, NOISE).shape == NONE.shape, purifier
        assert purifier(NONE.clone().requires_grad_(), NOISE).shape == NONE.shape, purifier


def classifiers():
    ndc = {"denoiser": denoiser(), "num_classes": CLASSES, "nodes": 8}
    return [
        deterministic(),
        purified(),
        Voting(purified(), 3),
        Voting(purified(), 3, "mean_logit"),
        NoisedDiffusionClassifier(**ndc, sigma=0.25),
        NoisedDiffusionClassifier(**ndc, sigma=0.25, variant="epndc", elimination=Elimination()),
        BoundedDiffusionClassifier(**ndc),
        DenoisedClassifier(denoiser(), head(), 0.25, steps=2, votes=3),
    ]


def test_classifiers():
    for classifier in classifiers():
        assert classifier(NONE, NOISE).shape == (0, CLASSES), classifier


def test_certifiers():
    settings = {"sigma": 0.25, "n0": 20, "n": 100, "alpha": 0.01, "num_classes": CLASSES}
    for certifier in (Smoothing(**settings), Sequential(**settings, targets=(0.1,)), Forecast(**settings, error=0.4)):
        for classifier in (deterministic(), purified()):
            assert list(certifier.certify(classifier, NONE, NOISE)) == []
    assert Smoothing(**settings).predict(purified(), NONE, NOISE) == []
    exact = BoundedDiffusionClassifier(denoiser(), CLASSES, 4)
    assert Lipschitz(CLASSES, 2).certify(exact, NONE, NOISE) == Claimed(CLASSES).certify(exact, NONE, NOISE) == []


def test_evaluators():
    smoothing = Smoothing(0.25, n0=20, n=100, alpha=0.01, num_classes=CLASSES)
    attacked = Attacked(PGD(2), BALL)
    for evaluator in (Clean(), attacked, Baseline(attacked), Certified(smoothing), GradientCheck()):
        assert evaluator(purified(), (NONE, NOBODY, NOBODY)) == []
