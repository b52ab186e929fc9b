"""Class names in headers of records: public names, which import back and belong to one class."""

import pytest
import torch
from torch import Tensor, nn

from agdm.baselines import ContrastiveGuidance
from agdm.guidance import AdversarialGuidance
from agdm.networks import GuidanceNetwork
from agdm.purifier import AGDM
from common.data.digits import Digits
from common.data.synthetic import Synthetic
from common.data.torchvision_sets import CIFAR10
from common.diffusion.composed import Chain, FixedNoise, Repeated, Resized
from common.diffusion.denoisers import EpsDenoiser
from common.diffusion.schedules import DDPM
from common.exact import ExactDenoiser, GaussianMixture
from common.naming.public_names import import_public, is_ours
from common.networks import SmallCNN
from common.noise import Noise
from common.records.fingerprint import settings
from common.robustness import (
    APGD,
    FAB,
    PGD,
    Attacked,
    AutoAttack,
    Certified,
    Clean,
    DiffAttack,
    DiffHammer,
    Forecast,
    GradientCheck,
    KnownNoise,
    LowFrequency,
    NetworkClassifier,
    Purified,
    Sequential,
    Smoothing,
    SpatialThreat,
    Square,
    StAdv,
    ThreatModel,
    Through,
    Transfer,
    Voting,
)
from common.tasks.recording import data_settings
from diffpure.gradual import Block, GradualNoise
from diffpure.langevin import LangevinDiffPure
from diffpure.likelihood_maximisation import LikelihoodMaximisation
from diffpure.purifier import DiffPure
from diffpure.randomised import RandomisedDiffPure

BALL = ThreatModel("inf", "8/255")


class Predicted(nn.Module):
    """Noise prediction of a network on (1,8,8) images."""

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        return x


class Towards:
    """Guidance by its gradient alone."""

    def gradient(self, x: Tensor, sigma: Tensor, reference: Tensor) -> Tensor:
        return reference - x


def own_attack(classifier, image, label, threat, noise):
    return image


def classes(part):
    """Every "class" of a header, at any depth."""
    if isinstance(part, dict):
        own = [part["class"]] if isinstance(part.get("class"), str) else []
        return own + [name for value in part.values() for name in classes(value)]
    return [name for value in part for name in classes(value)] if isinstance(part, list) else []


def purifiers():
    denoiser, phi = EpsDenoiser(Predicted(), DDPM()), GuidanceNetwork(1, 10)
    diffpure = DiffPure(denoiser, 0.1, steps=3)
    return [
        diffpure,
        DiffPure(denoiser, 0.1, steps=3, gradient="adjoint"),
        DiffPure(denoiser, 0.1, steps=3, gradient="bpda", solver="torchsde"),
        RandomisedDiffPure(denoiser, 0.1, steps=3),
        LangevinDiffPure(denoiser, 0.1, steps=3),
        LikelihoodMaximisation(denoiser),
        GradualNoise(denoiser, blocks=[Block(0.01, 2, 1)]),
        Chain([diffpure]),
        Repeated(diffpure, 2),
        Resized(diffpure, 8),
        FixedNoise(diffpure),
        AGDM(denoiser, AdversarialGuidance(phi), 0.1, steps=3),
        AGDM(denoiser, Towards(), 0.1, steps=3),
        AGDM(denoiser, ContrastiveGuidance(phi, torch.rand(4, 1, 8, 8)), 0.1, steps=3),
    ]


def attacks():
    classifier = NetworkClassifier(SmallCNN(10, 1))
    pgd = [PGD(), Transfer(classifier, PGD()), Through(PGD(), "bpda"), DiffAttack(PGD()), DiffHammer(PGD(eot=2))]
    return [*pgd, APGD(), Square(), AutoAttack(), FAB(), own_attack]


def evaluators():
    certifiers = [Smoothing(0.25), Sequential(0.25), Forecast(0.25, targets=(0.25,), n0=100, n=1000)]
    return [Clean(), GradientCheck(), *map(Certified, certifiers), Attacked(StAdv(), SpatialThreat())]


def parts():
    classifier = NetworkClassifier(SmallCNN(10, 1))
    noise = Noise.of(0, torch.arange(2))
    yield from (Purified(purifier, classifier) for purifier in purifiers())
    yield from (Attacked(attack, BALL) for attack in attacks())
    yield from evaluators()
    yield from (
        LowFrequency(),
        Voting(classifier, 3),
        KnownNoise(classifier, noise),
        ExactDenoiser(GaussianMixture(torch.zeros(2, 1, 8, 8), 1)),
    )


def named(part):
    return [name for name in classes(part) if is_ours(name)]


def test_every_class_in_a_header_imports_back():
    """A class that no room exports would be named by its module, and a move would change the fingerprint."""
    names = {name for part in parts() for name in named(settings(part))}
    assert len(names) > 40
    for name in names:
        assert import_public(name).__name__ == name.rpartition(".")[2]


@pytest.mark.parametrize("data", [Digits(), Synthetic(), CIFAR10()], ids=lambda data: type(data).__name__)
def test_a_data_module_is_named_by_room_and_class(data):
    description = data_settings(data)
    assert description["class"] == f"common.data.{type(data).__name__}"
    for name in named(description):
        import_public(name)


def test_a_users_class_of_the_same_name_is_another_data_set():
    own = type("CIFAR10", (CIFAR10,), {"__module__": "mine"})
    assert data_settings(own())["class"] == "mine.CIFAR10"
    assert data_settings(own()) != data_settings(CIFAR10())
