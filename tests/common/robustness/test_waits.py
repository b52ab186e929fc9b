"""The host does not wait for a device within a purification, an attack step or a batch of samples."""

import warnings

import pytest
import torch
from torch.utils._python_dispatch import _disable_current_modes

from agdm.purifier import AGDM
from common.checks import deferred
from common.noise import Noise
from common.robustness import (
    APGD,
    FAB,
    PGD,
    Classifier,
    DiffHammer,
    Purified,
    Sequential,
    Smoothing,
    Square,
    ThreatModel,
)
from common.robustness.attacks.stadv import StAdv
from common.robustness.attacks.staged import Staged
from common.robustness.threats.spatial import SpatialThreat
from ndc.classifier import NoisedDiffusionClassifier
from tests.defences import batch, denoiser, diffpure, guidance, head
from tests.waits import counted_waits

IMAGE, LABEL, INDEX = batch(3)
NOISE = Noise.of(0, INDEX)
ATTACK = 5
"""Waits of an attack: the images as they enter, twice; labels; what is checked at the end; images without a loss."""

STAGES = {"pool": 1, "pool_targets": 1, "eot": 2, "refine_eot": 2, "draws": 2}
ATTACKS = {
    "PGD": ("inf", lambda steps: PGD(steps=steps, eot=2), ATTACK),
    "PGD in L2, 2 restarts": ("2", lambda steps: PGD(steps=steps, restarts=2), ATTACK),
    "PGD in L1": ("1", lambda steps: PGD(steps=steps), ATTACK),
    "APGD": ("inf", lambda steps: APGD(steps=steps, eot=2), ATTACK),
    "APGD in L1": ("1", lambda steps: APGD(steps=steps), ATTACK),
    "targeted APGD": ("inf", lambda steps: APGD(steps=steps, loss="targeted_margin"), ATTACK),
    "DiffHammer": ("inf", lambda steps: DiffHammer(PGD(steps=steps, eot=2)), ATTACK + 1),
    "grafted DiffHammer": ("inf", lambda steps: DiffHammer(PGD(steps=steps, eot=2), graft=True), ATTACK + 1),
    "Square": ("inf", lambda steps: Square(queries=steps), ATTACK),
    "Square in L2": ("2", lambda steps: Square(queries=steps), ATTACK + 2),  # where the first bumps lie
    "FAB": (
        "inf",
        lambda steps: FAB(steps=steps),
        ATTACK + 2,
    ),  # the images that are left, for each target
    "Staged": ("inf", lambda steps: Staged(pool_steps=steps, steps=steps, refine_steps=steps, **STAGES), ATTACK + 7),
}


def agdm(steps):
    return Purified(AGDM(denoiser(), guidance(), 0.1, scale=20.0, steps=steps), head())


def ndc(nodes):
    return NoisedDiffusionClassifier(denoiser(), 3, 0.2, nodes=nodes)


def waits_of(monkeypatch, act, *arguments):
    with counted_waits(monkeypatch) as waits:
        act(*arguments)
    return waits.count


def gradient(classifier):
    leaf = IMAGE.clone().requires_grad_()
    return torch.autograd.grad(classifier(leaf, NOISE).sum(), leaf)


@pytest.mark.parametrize("defence", [lambda steps: diffpure(steps=steps), agdm, ndc], ids=["DiffPure", "AGDM", "NDC"])
@pytest.mark.parametrize("act", [lambda classifier: classifier(IMAGE, NOISE), gradient], ids=["forward", "gradient"])
def test_a_purification_waits_once(monkeypatch, defence, act):
    for steps in (2, 8):
        assert waits_of(monkeypatch, act, defence(steps).freeze()) == 1


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_waits_as_often_for_any_number_of_steps(monkeypatch, name):
    norm, attack, expected = ATTACKS[name]
    classifier, threat = diffpure(steps=1).freeze(), ThreatModel(norm, 0.05)
    for steps in (2, 8):
        assert waits_of(monkeypatch, attack(steps).search, classifier, IMAGE, LABEL, threat, NOISE) == expected


def test_stadv_waits_as_often_for_any_number_of_steps(monkeypatch):
    """Adam reads its number of steps each time, which it keeps in the host's memory: no wait."""
    step = torch.optim.Adam.step

    def uncounted(self):
        with _disable_current_modes():
            step(self)

    monkeypatch.setattr(torch.optim.Adam, "step", uncounted)
    flow = torch.zeros(1, requires_grad=True, device="meta")
    flow.grad, adam = torch.zeros_like(flow), torch.optim.Adam([flow])
    adam.step()
    assert adam.state[flow]["step"].device.type == "cpu"
    classifier = diffpure(steps=1).freeze()
    for steps in (2, 8):
        attack = StAdv(steps=steps, eot=2)
        assert waits_of(monkeypatch, attack.search, classifier, IMAGE, LABEL, SpatialThreat(0.05), NOISE) == ATTACK


@pytest.mark.parametrize("defence", [lambda: diffpure(steps=1), lambda: ndc(8)], ids=["DiffPure", "NDC"])
def test_a_certification_waits_once_per_round(monkeypatch, defence):
    """The images, once; the n0 and the n samples, once each; classes and counts."""
    classifier = defence().freeze()
    for n in (32, 128):
        smoothing = Smoothing(0.2, n0=10, n=n, num_classes=3, batch_size=16)
        assert waits_of(monkeypatch, smoothing.certify, classifier, IMAGE, NOISE) == 5


def test_a_stage_waits_for_its_samples_and_its_counts(monkeypatch):
    classifier = diffpure(steps=1).freeze()
    settings = {"num_classes": 3, "batch_size": 16, "alpha": 0.1, "futility": 0.0, "targets": [0.29]}
    for first, stages in ((64, 1), (16, 3)):
        smoothing = Sequential(0.2, n0=10, n=64, first=first, **settings)
        assert waits_of(monkeypatch, smoothing.certify, classifier, IMAGE[:1], NOISE.rows(slice(1))) == 5 + 2 * stages


class Breaking(Classifier):
    """A purifier's classifier whose images are not finite from the call ``last`` on."""

    def __init__(self, last):
        super().__init__()
        self.inner, self.calls, self.last = Purified(Flip(self), head()), 0, last

    def forward(self, image, noise=None):
        self.calls += 1
        return self.inner(image, noise)


class Flip(torch.nn.Module):
    randomised = False

    def __init__(self, owner):
        super().__init__()
        self.owner = [owner]

    def forward(self, image, noise):
        return image if self.owner[0].calls < self.owner[0].last else image.index_fill(0, torch.tensor([1]), torch.nan)


@pytest.mark.parametrize(("waits", "calls"), [(False, 3), (True, 7)])
def test_the_stage_that_failed_first_is_named(monkeypatch, waits, calls):
    """Points, logits and losses of later steps are wrong too. Where no look has to wait, the attack ends there."""
    monkeypatch.setattr(deferred, "has_to_wait", lambda values: waits)
    classifier = Breaking(3)
    with pytest.raises(ValueError, match=r"a purifier must return finite images; got NaN or infinity in rows \[1\]"):
        PGD(steps=6).search(classifier, IMAGE, LABEL, ThreatModel("inf", 0.05), NOISE)
    assert classifier.calls == calls


@pytest.mark.gpu
@pytest.mark.parametrize("defence", [lambda: diffpure(steps=4), lambda: agdm(4), lambda: ndc(8)])
def test_a_gpu_runs_through_steps_and_draws(defence):
    """``torch.cuda`` counts its own waits: as many for 2 as for 8 steps of an attack."""
    classifier, counts = defence().freeze().cuda(), []
    image, label, noise = IMAGE.cuda(), LABEL.cuda(), NOISE.to("cuda")
    for steps in (2, 8):
        attack = PGD(steps=steps, eot=2)
        attack.search(classifier, image, label, ThreatModel("inf", 0.05), noise)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")  # once per place would count the waits of all steps as one
            torch.cuda.set_sync_debug_mode("warn")
            try:
                attack.search(classifier, image, label, ThreatModel("inf", 0.05), noise)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        counts.append(sum("synchronizing CUDA operation" in str(one.message) for one in caught))
    assert counts[0] == counts[1] > 0
