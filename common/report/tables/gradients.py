"""Are the gradients that a run attacked with what they claim to be? What its records and their header say."""

from dataclasses import dataclass
from typing import Any, Literal

from common.report.header import find, normal, short
from common.report.runs import Run, is_scored

APPROXIMATE = {
    "bpda": "the backward pass takes the purification for the identity",
    "adjoint": "an adjoint equation stands for the gradient of the steps that are deployed",
    "surrogate": "another process is differentiated than the one that is deployed",
}
DECLARATION = "declared gradient"  # the test that only measures a gradient which is declared approximate
State = Literal["exact", "approximate", "failed", "unknown"]
RANK = {"failed": 0, "undecided": 1, "passed": 2}


@dataclass(frozen=True)
class Tested:
    """What a verification found by one of its tests: at the image that speaks most against the gradient."""

    name: str
    state: Literal["passed", "failed", "undecided"]
    sentence: str


@dataclass(frozen=True)
class Gradients:
    """``state`` of a run's gradients, with a sentence for everything that speaks against them."""

    state: State
    sentences: list[str]


def findings(run: Run) -> list[Tested]:
    """The findings of a run's verification, one per test; empty where there was none."""
    found: dict[str, Tested] = {}
    for row in run.records:
        listed = row.values.get("findings", [])
        for values in [] if is_scored(row) or not isinstance(listed, list) else listed:
            one = Tested(str(values["name"]), _state(values), str(values["sentence"]))
            if one.name not in found or RANK[one.state] < RANK[found[one.name].state]:
                found[one.name] = one
    return list(found.values())


def gradients(run: Run) -> Gradients | None:
    """None for a run without an attack that uses gradients.

    "failed": a verification in the run speaks against them. "approximate": every attack uses one that is declared to
    be so, in the header or by the verification. "exact": verified. "unknown": nothing was verified.
    """
    white = [name for name in run.attacks if run.rows(name)[0].values.get("white_box", True)]
    if not white:
        return None
    found = findings(run)
    failed = [f"{one.name.capitalize()}: {one.sentence}" for one in found if one.state == "failed"]
    if failed or any(row.values.get("verified") is False for row in run.records):
        return Gradients("failed", failed or ["A verification failed, without saying where."])
    modes = {name: mode_name(gradient_of(run, name)) for name in white}
    declared = [one.sentence for one in found if one.name == DECLARATION]
    if declared and not any(find(run.part(name).get("attack"), "gradient") for name in white):
        return Gradients("approximate", declared)
    if all(mode.lower() in APPROXIMATE for mode in modes.values()):
        said = [
            f"{mode}: {APPROXIMATE[mode.lower()]}. A robust accuracy measured by it is an upper bound."
            for mode in dict.fromkeys(modes.values())
        ]
        return Gradients("approximate", said)
    if found:
        return Gradients("exact", [])
    off = run.config.get("verify") == "off"
    why = "verification was switched off" if off else "the records hold no verification"
    return Gradients("unknown", [f"Nothing says that the attacks differentiated what is deployed: {why}."])


def gradient_of(run: Run, evaluator: str) -> Any:
    """How an attack differentiates the defence: the way it names itself, else the defence's own; None if not stated."""
    own = find(run.part(evaluator).get("attack"), "gradient")
    return find(find(run.config, "classifier"), "gradient") if own is None else own


def mode_name(gradient: Any) -> str:
    """``"BPDA"`` of a described gradient, or of its short name; empty without one."""
    node = normal(gradient)
    name = short(str(node.get("class", ""))) if isinstance(node, dict) else str(node or "")
    return "BPDA" if name.lower() == "bpda" else name[:1].upper() + name[1:]


def _state(values: dict[str, Any]) -> Literal["passed", "failed", "undecided"]:
    if not values.get("decided", True):
        return "undecided"
    return "passed" if values.get("passed") else "failed"
