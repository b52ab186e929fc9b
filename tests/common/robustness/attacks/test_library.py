"""The torchattacks adapter: plain and randomised classifiers, budgets, restored global state."""

import random
import sys

import numpy as np
import pytest
import torch
from torch import nn

from common.noise import Noise
from common.robustness.attacks.library import TorchAttacks
from common.robustness.classifiers import Classifier, NetworkClassifier, Purified
from common.robustness.threats.norm_ball import ThreatModel

pytest.importorskip("torchattacks")

LINF, L2 = ThreatModel("inf", 0.1), ThreatModel(2, 0.5)
ATTACKS = [
    ("FGSM", {}, LINF), ("PGD", {"alpha": 0.02, "steps": 10}, LINF), ("EOTPGD", {"eot_iter": 2}, LINF),
    ("MIFGSM", {"alpha": "5/255"}, LINF), ("APGD", {"steps": 10}, LINF), ("APGD", {"steps": 10}, L2),
    ("APGDT", {"steps": 5}, LINF), ("Square", {"n_queries": 50}, LINF), ("PGDL2", {}, L2), ("SPSA", {}, LINF),
    ("FAB", {"steps": 5}, LINF), ("TPGD", {}, LINF),
]  # fmt: skip


class Jitter(nn.Module):
    """A purifier that only adds noise, and stores its rows of noise."""

    def __init__(self):
        super().__init__()
        self.noises = []

    def forward(self, image, noise):
        assert len(image) == len(noise)
        self.noises.append(noise)
        return image + 0.02 * noise.normal(0, image.shape[1:])


def rows(n, seed=0):
    return Noise.of(seed, torch.arange(n))


@pytest.fixture(scope="module")
def problem():
    """Four classes, one per bright quadrant of an 8x8 image, and a small trained network."""
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(96) % 4
    image = 0.3 + 0.1 * torch.rand(96, 1, 8, 8, generator=generator)
    for b, y in enumerate(label.tolist()):
        image[b, 0, 4 * (y // 2) : 4 * (y // 2) + 4, 4 * (y % 2) : 4 * (y % 2) + 4] += 0.12
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 4))
        optimiser = torch.optim.Adam(network.parameters(), 0.01)
        for _ in range(150):
            optimiser.zero_grad()
            nn.functional.cross_entropy(network(image - 0.35), label).backward()
            optimiser.step()
        optimiser.zero_grad()
    classifier = NetworkClassifier(network, mean=[0.35], std=[1.0])
    assert bool((classifier.eval()(image).argmax(1) == label).all())
    return classifier.train(), image[:16], label[:16]


def accuracy(classifier, image, label, noise=None):
    classifier.eval()
    return float((classifier(image, noise).argmax(1) == label).float().mean())


@pytest.mark.parametrize(("name", "options", "threat"), ATTACKS)
def test_attacks_succeed_within_the_budget(problem, name, options, threat):
    classifier, image, label = problem
    adv = TorchAttacks(name, options)(classifier.train(), image, label, threat, rows(16))
    assert adv.dtype == image.dtype
    assert not adv.requires_grad
    assert bool(threat.check(image, adv).all())
    assert classifier.training
    assert not torch.equal(adv, image)
    if name not in ("SPSA", "FAB", "TPGD"):
        assert accuracy(classifier, adv, label) <= 0.5


@pytest.mark.parametrize(("name", "options", "threat"), ATTACKS)
def test_every_call_of_a_randomised_classifier_has_fresh_noise(problem, name, options, threat):
    classifier, image, label = problem
    jitter = Jitter()
    adv = TorchAttacks(name, options)(Purified(jitter, classifier), image, label, threat, rows(16))
    assert bool(threat.check(image, adv).all())
    keys = [
        key
        for noise in jitter.noises
        for key in zip([noise.seed] * len(noise), noise.index.tolist(), noise.draw.tolist(), strict=True)
    ]
    assert len(set(keys)) == len(keys), "no noise twice, not within a call of more rows than images either"
    assert len(jitter.noises) > 1 or name == "FGSM"


def test_minimum_norm_attacks_stay_in_the_ball_only_with_project(problem):
    classifier, image, label = problem
    tight, settings = ThreatModel("inf", 0.01), {"c": 5, "lr": 0.02}
    adv = TorchAttacks("CW", settings)(classifier, image, label, tight, rows(16))
    assert accuracy(classifier, adv, label) <= 0.5
    assert not bool(tight.check(image, adv).all())
    projected = TorchAttacks("CW", settings, project=True)(classifier, image, label, tight, rows(16))
    assert torch.equal(projected, tight.project(image, adv))
    assert bool(tight.check(image, projected).all())


def test_white_box_flags(problem):
    """On a plain classifier, exactly the black-box attacks of the package never compute a gradient."""

    class Watched(NetworkClassifier):
        def forward(self, image, noise=None):
            self.points |= image.requires_grad
            return super().forward(image, noise)

    classifier, image, label = problem
    options = {"Pixle": {"restarts": 1, "max_iterations": 1}, "Square": {"n_queries": 3}, "OnePixel": {"steps": 1}}
    for name in ("GN", "OnePixel", "Pixle", "SPSA", "Square", "VANILA", "FGSM", "CW", "DeepFool", "FAB", "APGD"):
        watched = Watched(classifier.network, [0.35], [1.0])
        watched.points = False
        attack = TorchAttacks(name, options.get(name))
        attack(watched, image[:4], label[:4], LINF, rows(4))
        assert attack.white_box == watched.points, name


def test_fgsm_matches_the_closed_form(problem):
    """FGSM on two linear classes: image + eps sign(w_other - w_label)."""
    layer = nn.Linear(4, 2, bias=False)
    image, label = torch.full((2, 1, 2, 2), 0.5), torch.tensor([0, 1])
    adv = TorchAttacks("FGSM")(NetworkClassifier(nn.Sequential(nn.Flatten(), layer)), image, label, LINF, rows(2))
    towards = (layer.weight[1] - layer.weight[0]).detach().sign().view(1, 2, 2)
    torch.testing.assert_close(adv, image + 0.1 * torch.stack((towards, -towards)))


@pytest.mark.parametrize("name", ["PGD", "APGD", "Square", "CW", "Pixle"])
def test_global_generators_gradients_and_flags_are_restored(problem, name):
    classifier, image, label = problem
    options = {"Square": {"n_queries": 5}, "Pixle": {"restarts": 1, "max_iterations": 1}}.get(name, {"steps": 3})
    numpy_state = np.random.get_state  # torchattacks draws from the old global generator
    torch.rand(1), np.random.random_sample(), random.random()  # noqa: NPY002 (not where an earlier attack left them)
    before = torch.get_rng_state(), numpy_state()[1].copy(), random.getstate(), torch.initial_seed()
    with torch.no_grad():
        TorchAttacks(name, options)(classifier.train(), image, label, LINF, rows(16))
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (numpy_state()[1] == before[1]).all()
    assert random.getstate() == before[2]
    assert torch.initial_seed() == before[3]
    assert all(module.training for module in classifier.modules())
    assert all(p.requires_grad and (p.grad is None or not p.grad.any()) for p in classifier.parameters())


@pytest.mark.parametrize("name", ["PGD", "APGD", "Square"])
def test_results_depend_on_the_noise_only(problem, name):
    classifier, image, label = problem
    options = {"n_queries": 5} if name == "Square" else {"steps": 2}
    attack = TorchAttacks(name, options)
    first = attack(classifier, image, label, LINF, rows(16))
    torch.rand(3)
    assert torch.equal(attack(classifier, image, label, LINF, rows(16)), first)
    assert not torch.equal(attack(classifier, image, label, LINF, rows(16, seed=1)), first)


def test_number_of_classes_is_taken_from_the_classifier():
    """APGDT has nine targets by default; with four classes there are only three."""

    class Four(Classifier):
        def forward(self, image, noise=None):
            return image.flatten(1)

    image = 0.5 + 0.05 * torch.rand(3, 1, 2, 2, generator=torch.Generator().manual_seed(0))  # margins below 2 eps
    adv = TorchAttacks("APGDT", {"steps": 2})(Four(), image, image.flatten(1).argmax(1), LINF, rows(3))
    assert adv.shape == image.shape and not torch.equal(adv, image)


@pytest.mark.parametrize(
    ("name", "options", "threat", "message"),
    [
        ("PGD", {"eps": "8/255"}, LINF, "eps must be the threat's, 0.1"),
        ("PIFGSM", {"max_epsilon": 0.2}, LINF, "max_epsilon must be the threat's, 0.1"),
        ("PGDL2", {}, LINF, "PGDL2 attacks in L2; the threat is Linf"),
        ("PGDRSL2", {}, LINF, "PGDRSL2 attacks in L2; the threat is Linf"),
        ("PGD", {}, L2, "PGD attacks in Linf; the threat is L2"),
        ("APGD", {"norm": "L2"}, LINF, "APGD attacks in L2; the threat is Linf"),
    ],
)
def test_a_budget_other_than_the_threats_raises(problem, name, options, threat, message):
    classifier, image, label = problem
    with pytest.raises(ValueError, match=message):
        TorchAttacks(name, options)(classifier, image, label, threat, rows(16))


def test_the_threats_budget_is_accepted_as_an_option(problem):
    classifier, image, label = problem
    stated, implied = (
        TorchAttacks("FGSM", options)(classifier, image, label, LINF, rows(16)) for options in ({"eps": "51/510"}, {})
    )
    assert torch.equal(stated, implied)


def test_unknown_names_and_options_raise_at_construction():
    with pytest.raises(ValueError, match=r"no attack 'PDG'\. It has: APGD, "):
        TorchAttacks("PDG")
    with pytest.raises(ValueError, match="no attack 'MultiAttack'"):
        TorchAttacks("MultiAttack")
    with pytest.raises(ValueError, match=r"torchattacks.PGD has no option iters. Its options: eps, alpha, steps"):
        TorchAttacks("PGD", {"iters": 5})


def test_autoattack_of_torchattacks_is_labelled():
    assert str(TorchAttacks("AutoAttack")) == "torchattacks.AutoAttack (10 steps)"
    assert str(TorchAttacks("APGD", {"steps": 100})) == "torchattacks.APGD(steps=100)"


def test_inference_mode_raises(problem):
    classifier, image, label = problem
    with torch.inference_mode(), pytest.raises(RuntimeError, match="inference mode is on"):
        TorchAttacks("FGSM")(classifier, image, label, LINF, rows(16))


def test_missing_package_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchattacks", None)
    with pytest.raises(ImportError, match=r'pip install "robust-diffusion\[attacks\]"'):
        TorchAttacks("PGD")


BAD_OPTIONS = [
    ("PGD", {"alpha": -1.0}), ("PGD", {"alpha": 0}), ("PGD", {"alpha": True}), ("PGD", {"alpha": 1e-320}),
    ("PGD", {"random_start": 1}), ("PGD", {"steps": 2.5}), ("MIFGSM", {"decay": -1}), ("MIFGSM", {"decay": True}),
    ("CW", {"lr": -0.01}), ("CW", {"kappa": "abc"}), ("SPSA", {"nb_sample": 0}), ("FAB", {"eta": True}),
    ("TIFGSM", {"resize_rate": float("inf")}), ("Square", {"p_init": -0.5}), ("APGD", {"verbose": "yes"}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options"), BAD_OPTIONS)
def test_options_that_mean_nothing_are_refused_by_name(name, options):
    (key,) = options
    with pytest.raises(ValueError, match=rf"{key}.*must be"):
        TorchAttacks(name, options)


def test_options_with_another_sign_or_ratio_are_taken():
    for name, options in (
        ("JSMA", {"theta": -1.0}),
        ("CW", {"kappa": 0}),
        ("DIFGSM", {"decay": 0.0, "alpha": "2/255"}),
    ):
        assert TorchAttacks(name, options).options
