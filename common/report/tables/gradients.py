"""State of the gradients that a run attacked with, from its gradient check and its header."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from common.naming.differentiation_modes import APPROXIMATE
from common.numerics.finding import ATTACK_GRADIENT, DECLARED_GRADIENT, DEFENCE, Finding
from common.records.column_fields import is_unknown
from common.records.column_rows import Rows
from common.records.schema import AttackedRecord
from common.report.header import find, normal, short
from common.report.runs import Evaluation, Run, state

State = Literal["exact", "approximate", "failed", "unknown"]
RANK = {"failed": 0, "undecided": 1, "passed": 2}


@dataclass(frozen=True)
class Gradients:
    """``state`` of a run's gradients, with a sentence for each reason against them."""

    state: State
    sentences: list[str]


def findings(run: Run) -> list[Finding]:
    """Findings of a run's gradient check, for each of its tests at the worst image; empty without a check."""
    worst: dict[str, Finding] = {}
    for check in run.gradient_checks:
        for finding in (finding for row in check.rows for finding in row.findings):
            known = worst.get(finding.name)
            if known is None or RANK[state(finding)] < RANK[state(known)]:
                worst[finding.name] = finding
    return list(worst.values())


def gradients(run: Run) -> Gradients | None:
    """State of the gradients; None for a run without a white-box attack.

    "failed": a gradient check failed. "approximate": every attack uses a gradient that is declared approximate, in the
    header or by the check. "exact": checked. "unknown": not checked.
    """
    white_box = [attack for attack in run.attacks if attack.rows[0].white_box]
    if not white_box:
        return None
    tested = findings(run)
    failed = [f"{one.name.capitalize()}: {one.sentence}" for one in tested if state(one) == "failed"]
    if failed or _is_marked(run):
        return Gradients("failed", failed or ["A gradient check failed; its findings are not among the records."])
    declared = [one.sentence for one in tested if one.name == DECLARED_GRADIENT]
    if declared and not any(find(attack.part.get("attack"), "gradient") for attack in white_box):
        return Gradients("approximate", declared)
    if sentences := _declared(run, white_box):
        return Gradients("approximate", sentences)
    if tested:
        return Gradients("exact", [])
    off = run.config.get("verify") == "off"
    why = "the gradient check was switched off" if off else "the records hold no gradient check"
    return Gradients("unknown", [f"It is unknown whether the attacks differentiated the deployed defence: {why}."])


def _is_marked(run: Run) -> bool:
    """True where the records mark a failed gradient check."""
    checks = (row.verified for check in run.gradient_checks for row in check.rows)
    return not all(checks) or any(_marks_a_failure(attack.rows) for attack in run.attacks)


def _marks_a_failure(rows: Rows[AttackedRecord]) -> bool:
    verified = rows.array("verified")
    return bool((~is_unknown(verified) & (verified == 0)).any())


def _declared(run: Run, attacks: Sequence[Evaluation[AttackedRecord]]) -> list[str]:
    """A sentence for each mode, if every attack uses a mode that is declared approximate."""
    modes = [mode_name(gradient_of(run, attack)) for attack in attacks]
    if not all(mode.lower() in APPROXIMATE for mode in modes):
        return []
    return [
        f"{mode}: {APPROXIMATE[mode.lower()]}. A robust accuracy measured by it is an upper bound."
        for mode in dict.fromkeys(modes)
    ]


def attack_gradient(run: Run, attack: Evaluation[Any]) -> Finding | None:
    """Cosine of an attack's gradient with the exact one, at its worst image; None where it takes the exact one
    and for evaluations without an attack."""
    if "attack" not in attack.part:
        return None
    own = find(attack.part.get("attack"), "gradient")
    name = f"{ATTACK_GRADIENT}{attack.title if own is not None else DEFENCE}"
    found = [one for check in run.gradient_checks for row in check.rows for one in row.findings if one.name == name]
    return max(found, key=lambda one: one.error, default=None)


def gradient_note(run: Run, attack: Evaluation[Any]) -> str:
    """``"Adjoint, 5 steps of 0.02 from t = 0.1 to 1e-05, cosine 0.12"``; empty without such a gradient.

    Without a gradient check of it ``"Adjoint, 5 steps of 0.02 from t = 0.1 to 1e-05, cosine not measured"``.
    """
    finding = attack_gradient(run, attack)
    if finding is None:
        return _not_measured(run, attack)
    process = re.search(r"\(([^()]*)\) with the exact one", finding.sentence)
    return ", ".join([*([process[1]] if process else []), f"cosine {1 - finding.error:.2f}"])


def _not_measured(run: Run, attack: Evaluation[Any]) -> str:
    """Note on an approximate gradient without a cosine: its mode, and its grid by the header."""
    own = find(attack.part.get("attack"), "gradient")
    if "attack" not in attack.part or (own is None and not getattr(attack.rows[0], "white_box", False)):
        return ""
    gradient = gradient_of(run, attack)
    name, settings = mode_name(gradient), normal(gradient)
    if name.lower() not in APPROXIMATE:
        return ""
    source = find(attack.part.get("attack"), "source")
    times = find(find(run.config, "classifier") if source is None else source, "times")
    own_grid = settings if isinstance(settings, dict) and name == "Adjoint" else {}
    if name == "Surrogate" or not isinstance(times, list) or len(times) < 2:
        return f"{name}, cosine not measured"
    size, last = own_grid.get("dt") or times[0] - times[1], own_grid.get("t_end") or times[-1]
    steps = math.ceil((times[0] - last) / size - 1e-6)
    return f"{name}, {steps} steps of {size:.3g} from t = {times[0]:g} to {last:g}, cosine not measured"


def weak_gradients(run: Run) -> list[Finding]:
    """Findings on the gradients of a run's attacks that are far from the exact one, each at its worst image."""
    found = (attack_gradient(run, attack) for attack in run.attacks)
    return [one for one in found if one is not None and not one.decided]


def gradient_of(run: Run, attack: Evaluation[AttackedRecord]) -> Any:
    """Differentiation mode of an attack, its own or else the defence's; None if not stated."""
    own = find(attack.part.get("attack"), "gradient")
    return find(find(run.config, "classifier"), "gradient") if own is None else own


def mode_name(gradient: Any) -> str:
    """``"BPDA"`` of a described mode, or of its short name; empty without one."""
    node = normal(gradient)
    name = short(str(node.get("class", ""))) if isinstance(node, dict) else str(node or "")
    return "BPDA" if name.lower() == "bpda" else name[:1].upper() + name[1:]
