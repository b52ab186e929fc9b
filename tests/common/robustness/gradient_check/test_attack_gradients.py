"""The gradients that attacks take in place of the exact one are measured by their cosine, at the grid they run on."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from common.diffusion.adjoint import Adjoint
from common.diffusion.denoisers import EpsDenoiser
from common.diffusion.modes import Surrogate
from common.diffusion.schedules import VP
from common.noise import Noise
from common.numerics.finding import Finding
from common.records.fingerprint import identify
from common.report.headline import headline
from common.report.page.banners import banners
from common.report.runs import Run
from common.report.tables.accuracy import accuracy_table
from common.report.tables.gradients import gradient_note
from common.report.tables.protocol import protocol_table
from common.robustness.attacks.pgd import PGD
from common.robustness.attacks.through import Through
from common.robustness.attacks.transfer import Transfer
from common.robustness.classifiers import NetworkClassifier, Purified
from common.robustness.evaluation.attacked import Attacked
from common.robustness.gradient_check.attack_gradients import own_gradient
from common.robustness.gradient_check.classifier_check import GradientCheck, failure_message, weak_gradients
from common.robustness.threats.norm_ball import ThreatModel
from common.tasks.diagnostics import gradient_checks
from diffpure.purifier import DiffPure
from tests.common.records.made import attacked_record

THREAT = ThreatModel("inf", 0.1)


class Body(nn.Module):
    """A steep prediction of the noise."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1, bias=False)
        self.conv.weight.data = torch.randn(1, 1, 3, 3, generator=torch.Generator().manual_seed(0)) * 3

    def forward(self, x, label, class_labels=None):
        return torch.tanh(self.conv(x))


def defence(gradient="checkpoint", steps=5):
    linear = nn.Linear(16, 3, bias=False)
    linear.weight.data = torch.randn(3, 16, generator=torch.Generator().manual_seed(1))
    denoiser = EpsDenoiser(Body(), VP(), "continuous")
    network = nn.Sequential(nn.Flatten(), linear)
    return Purified(DiffPure(denoiser, 0.1, steps=steps, gradient=gradient), NetworkClassifier(network)).freeze()


def attack(name, gradient):
    return Attacked(Through(PGD(steps=1), gradient), THREAT, name=name)


def measured(classifier, *evaluators):
    """Findings on attacks' gradients by name, at two images."""
    image = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(2))
    (check,) = gradient_checks([*evaluators, Attacked(PGD(steps=1), THREAT, name="exact")])
    rows = check(classifier, (image, torch.tensor([0, 1]), torch.arange(2)))
    assert failure_message(rows) == ""
    return {one.name: one for one in rows[0].findings if one.name.startswith("gradient of ")}, rows


def test_an_adjoint_on_a_coarse_grid_is_named_and_one_at_the_papers_step_is_closer():
    fine = attack("fine", Adjoint(dt=1e-3, t_end=0.05))
    found, rows = measured(defence(), attack("coarse", "adjoint"), fine, attack("pgd by bpda", "bpda"))
    coarse, near = found["gradient of coarse"], found["gradient of fine"]
    assert not coarse.decided and "(Adjoint, 5 steps of 0.02 from t = 0.1 to 1e-05)" in coarse.sentence
    assert "below 0.9: the attack is weaker than its name says" in coarse.sentence
    assert near.decided and "(Adjoint, 50 steps of 0.001 from t = 0.1 to 0.05)" in near.sentence
    assert near.error < 0.05 < coarse.error
    assert set(found) == {"gradient of coarse", "gradient of fine", "gradient of pgd by bpda"}
    assert "gradient of coarse (Adjoint" in weak_gradients(rows) and "fine" not in weak_gradients(rows)


def test_the_cosine_is_that_of_the_gradients():
    """Of a random projection of the logits, with the noise of the check, by autograd through the whole graph."""
    classifier = defence()
    found, _ = measured(classifier, attack("coarse", "adjoint"))
    noise = Noise.of(0, torch.tensor([0])).stream("verify")
    image = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(2))[:1]
    point = 0.02 + 0.96 * image + 0.02 * noise.stream("point").uniform(0, (1, 4, 4)) - 0.01
    gradients = []
    for mode in ("adjoint", "full"):
        leaf = point.clone().requires_grad_()
        with classifier.purifier.differentiated(mode):
            logits = classifier(leaf, noise)
            weights = noise.stream("weights").normal(0, logits.shape[1:])
            gradients.append(torch.autograd.grad((logits * weights).sum(), leaf)[0].flatten())
    cosine = torch.nn.functional.cosine_similarity(*gradients, dim=0).item()
    assert 1 - found["gradient of coarse"].error == pytest.approx(cosine, abs=1e-4)


def test_the_defences_own_approximation_and_a_surrogate_are_measured():
    found, _ = measured(defence("adjoint"), attack("coarser", Surrogate(2)))
    assert "gradient of the defence (Adjoint, 5 steps" in found["gradient of the defence"].sentence
    assert found["gradient of coarser"].error < 1e-5  # exact, of another process
    assert "Surrogate, 2 steps of 0.05" in found["gradient of coarser"].sentence


def test_the_gradient_is_found_inside_wrappers_and_exact_ones_are_left_out():
    assert own_gradient(PGD(steps=1)) is None
    assert own_gradient(Through(Through(PGD(steps=1), "adjoint"), "bpda")) == "bpda"
    assert gradient_checks([attack("a", "full"), attack("b", "checkpoint")]) == [GradientCheck()]


def transfer(source, inner, name="moved"):
    return Attacked(Transfer(source, inner), THREAT, name=name)


def test_a_transfer_attack_is_measured_on_its_source():
    """For any tested classifier, with the mode of the source or of the attack inside."""
    linear = NetworkClassifier(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3)))
    wanted, _ = measured(defence(), attack("b", "adjoint"))
    inside = transfer(defence(), Through(PGD(steps=1), "adjoint"))
    for tested in (linear, defence(steps=3)):
        for evaluator in (inside, transfer(defence("adjoint"), PGD(steps=1))):
            found, _ = measured(tested, evaluator)
            assert list(found) == ["gradient of moved"]
            assert found["gradient of moved"].error == pytest.approx(wanted["gradient of b"].error, abs=1e-4)
            assert "5 steps of 0.02" in found["gradient of moved"].sentence
    for exact in (transfer(defence(), PGD(steps=1)), transfer(linear, PGD(steps=1))):
        assert measured(defence(), exact)[0] == {}


@pytest.mark.parametrize(
    ("gradient", "expected"),
    [
        ("adjoint", "Adjoint, 5 steps of 0.02 from t = 0.1 to 1e-05, cosine not measured"),
        (Adjoint(dt=1e-3), "Adjoint, 100 steps of 0.001 from t = 0.1 to 1e-05, cosine not measured"),
        (Adjoint(dt=1e-3, t_end=0.05), "Adjoint, 50 steps of 0.001 from t = 0.1 to 0.05, cosine not measured"),
        ("bpda", "BPDA, 5 steps of 0.02 from t = 0.1 to 1e-05, cosine not measured"),
        (Surrogate(2), "Surrogate, cosine not measured"),
        ("full", ""),
    ],
)
def test_the_row_of_an_unchecked_gradient_carries_its_grid(gradient, expected):
    """With ``verify="off"``, and of a transfer attack."""
    rows = [attacked_record(i, [1, 2], evaluator="a") for i in range(6)]
    unchecked, own = attack("a", gradient), transfer(defence(gradient), PGD(steps=1), "a")
    for classifier, evaluator in ((defence(), unchecked), (defence(steps=3), own)):
        config = identify({"classifier": classifier, "evaluators": [evaluator]})[1]
        run = Run("run", "f", config, rows)
        assert gradient_note(run, run.attacks[0]) == expected


def report(cosine, decided):
    """A run of two attacks, one by the adjoint."""
    process = "Adjoint, 5 steps of 0.02 from t = 0.1 to 1e-05"
    sentence = f"The cosine of the gradient of b ({process}) with the exact one is {cosine}"
    finding = Finding("gradient of b", True, 1 - cosine, f"{sentence}.", decided)
    rows = [attacked_record(i, [1, 2], evaluator=name) for name in "ab" for i in range(6)]
    parts = [
        {"name": "a", "attack": {"class": "PGD"}},
        {"name": "b", "attack": {"class": "x.Through", "gradient": "adjoint"}},
    ]
    check = replace(measured(defence(), attack("b", "adjoint"))[1][0], findings=[finding])
    return Run("run", "f", {"evaluators": parts}, [*rows, check])


def test_the_row_of_a_report_carries_grid_and_cosine_and_a_weak_one_is_named():
    run = report(0.12, decided=False)
    titles = [row[1] for row in accuracy_table([run]).rows]
    note = "Adjoint, 5 steps of 0.02 from t = 0.1 to 1e-05, cosine 0.12"
    assert titles[:2] == ["a", f"b ({note})"]
    rows = {row[0]: row[1:] for row in protocol_table(run).rows}
    assert rows["Gradient of the attack, grid and cosine with the exact one"] == [None, note]
    assert any("gradient that is far from the exact one" in one.title for one in banners([run]))
    assert f"Weak attacks, by a gradient that is far from the exact one: run, b ({note})." in headline([run]).sentences
    near = report(0.97, decided=True)
    assert not any("far from the exact" in one.title for one in banners([near]))
    assert [row[1] for row in accuracy_table([near]).rows][1].endswith("cosine 0.97)")
