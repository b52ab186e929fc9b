"""State of a run's gradients, and its banner."""

import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from common.numerics.finding import ATTACK_GRADIENT, DEFENCE, Finding
from common.records.masking.check import MaskingCheck
from common.records.schema import AttackedRecord, GradientCheckRecord
from common.report.headline import headline
from common.report.page.page import page
from common.report.runs import Run, read_runs, state
from common.report.tables.gradients import findings, gradient_note, gradients
from common.report.tables.protocol import protocol_table

GOOD = Finding("full graph", True, 1e-9, "The gradient is that of the whole graph.")
BAD = Finding("guidance path", False, 0.3, "Guidance is detached somewhere.")
UNSURE = Finding.undecided("single precision", "Float64 is out of reach.")
DECLARED = Finding.undecided("declared gradient", "The gradient BPDA is declared approximate.", 0.9)


def read(run, path):
    return read_runs([run.write(path / "run")])[0]


def through(run, name, mode):
    run.attacked(name)
    run.parts[-1]["attack"] = {"class": "x.Through", "gradient": mode, "attack": run.parts[-1]["attack"]}
    return run


def asides(paths):
    parsed = ET.fromstring(page(read_runs(paths), [], [[], []], []))
    return {aside.get("aria-label"): " ".join("".join(aside.itertext()).split()) for aside in parsed.iter("aside")}


@pytest.mark.parametrize(
    ("gradient", "found", "expected"),
    [
        ("Checkpoint", [GOOD], "exact"),
        ("Checkpoint", [GOOD, BAD], "failed"),
        ("BPDA", [GOOD, DECLARED], "approximate"),
        ("BPDA", [GOOD, DECLARED, BAD], "failed"),
        ("Adjoint", [], "approximate"),
        ("Surrogate", [], "approximate"),
        ("Checkpoint", [], "unknown"),
        ("MyOwn", [GOOD, DECLARED], "approximate"),
        ("Checkpoint", [GOOD, UNSURE], "exact"),
    ],
)
def test_the_state_of_the_gradients(made, tmp_path, gradient, found, expected):
    run = made(gradient, n=5).attacked("pgd")
    assert gradients(read(run.verified(*found) if found else run, tmp_path)).state == expected


def test_a_run_is_approximate_only_if_all_its_attacks_are(made, tmp_path):
    weak = through(made(n=5).verified(GOOD), "bpda", "bpda")
    assert gradients(read(weak, tmp_path / "a")).state == "approximate"
    assert gradients(read(weak.attacked("pgd"), tmp_path / "b")).state == "exact"
    strong = through(made("BPDA", n=5).verified(GOOD, DECLARED), "exact", "checkpoint")
    assert gradients(read(strong, tmp_path / "c")).state == "exact"


def test_black_box_attacks_have_no_gradient_state(made, tmp_path):
    run = made(n=5).clean().attacked("square")
    run.rows = [replace(row, white_box=False) if isinstance(row, AttackedRecord) else row for row in run.rows]
    assert gradients(read(run, tmp_path)) is None


def test_of_several_images_the_worst_finding_counts(made, tmp_path):
    run = made(n=5).attacked("pgd").verified(GOOD, UNSURE)
    worse = [replace(GOOD, passed=False, sentence="No."), UNSURE]
    common = {"evaluator": "verify", "index": 1, "label": int(run.label[1])}
    run.rows.append(GradientCheckRecord(**common, verified=False, findings=worse))
    found = {one.name: (state(one), one.sentence) for one in findings(read(run, tmp_path))}
    assert found == {"full graph": ("failed", "No."), "single precision": ("undecided", UNSURE.sentence)}


def test_the_page_carries_a_banner(made, tmp_path):
    runs = [
        made(n=10).attacked("pgd").verified(GOOD, BAD, UNSURE).write(tmp_path / "wrong"),
        made("BPDA", n=10, seed=1).attacked("pgd").verified(DECLARED).write(tmp_path / "weak"),
        made(n=10, seed=2).attacked("pgd").write(tmp_path / "silent"),
        made(n=10, seed=3).attacked("pgd").verified(GOOD).write(tmp_path / "good"),
    ]
    found = asides(runs)
    (wrong,) = [said for title, said in found.items() if "failed their check" in title]
    assert "wrong. Guidance path: Guidance is detached somewhere." in wrong
    (weak,) = [said for title, said in found.items() if title.startswith("Approximate")]
    assert "weak. The gradient BPDA is declared approximate." in weak
    assert "silent. It is unknown whether" in found["The gradients were not verified"]
    (unsure,) = [said for title, said in found.items() if "could not decide" in title]
    assert "wrong, gradient check: single precision. Float64 is out of reach." in unsure
    assert "declared" not in unsure
    assert not any("good." in said for said in found.values())
    first = headline(read_runs(runs)).sentences[0]
    assert first.startswith("wrong: the gradient check failed") and "Guidance path: Guidance is detached" in first


def test_a_masking_check_keeps_its_banner_whatever_its_name(made, tmp_path, monkeypatch):
    """Checks of masking and findings of the gradient check differ by their type."""
    alike = MaskingCheck("gradient check: full graph", False, "It failed.")
    unsure = MaskingCheck("not a declared gradient", True, "It cannot tell.", decided=False)
    monkeypatch.setattr(Run, "checks", [alike, unsure])
    found = asides([made(n=5).attacked("pgd").verified(GOOD).write(tmp_path / "run")])
    assert "gradient check: full graph. It failed." in next(
        said for title, said in found.items() if title.startswith("1 check failed")
    )
    assert "not a declared gradient. It cannot tell." in found["1 check could not decide"]


def test_a_gradient_check_is_no_result(made, tmp_path):
    run = read(made(n=5).clean().verified(GOOD), tmp_path)
    assert [one.title for one in run.results] == ["clean"]
    assert [one.title for one in run.recorded] == ["clean", "verify"]


def test_the_protocol_names_the_differentiation_of_each_attack(made, tmp_path):
    run = made(n=5).attacked("exact")
    through(run, "bpda", "bpda")
    through(run, "coarse", {"class": "common.diffusion.Surrogate", "steps": 2, "solver": {"class": "x.DDIM"}})
    rows = {row[0]: row[1:] for row in protocol_table(read(run, tmp_path)).rows}
    assert rows["Attack"] == ["Through(PGD), white box"] * 2 + ["PGD, white box"]
    assert rows["Gradient of the defence"] == ["BPDA", "Surrogate(solver=DDIM, steps=2)", "Checkpoint"]
    backwards = "forward as deployed, backward as the identity"
    assert rows["Sampler in the attack"] == [backwards, "DDIM, 2 steps", "as deployed"]
    assert rows["Sampler in the defence"] == ["EulerMaruyama, 5 steps, t* = 0.1"] * 3


def test_a_check_may_be_undecided():
    assert state(MaskingCheck("name", True, "It cannot tell.", decided=False)) == "undecided"
    assert state(MaskingCheck("name", True, "Yes.")) == "passed"
    assert state(MaskingCheck("name", False, "No.")) == "failed"


def test_only_attacks_have_the_note_of_a_gradient(made, tmp_path):
    """The defence's own adjoint, cosine 0.29: the attack that takes it is named, the clean evaluation is not."""
    sentence = "The cosine of the gradient of the defence (Adjoint, 5 steps) with the exact one is 0.29"
    run = made("Adjoint", n=4).clean().attacked("pgd")
    run.verified(Finding.undecided(f"{ATTACK_GRADIENT}{DEFENCE}", sentence, 0.71))
    (read,) = read_runs([run.write(tmp_path / "run")])
    assert [gradient_note(read, one) for one in read.clean] == [""]
    assert [gradient_note(read, one) for one in read.attacks] == ["Adjoint, 5 steps, cosine 0.29"]
