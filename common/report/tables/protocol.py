"""How the numbers were made, from the configuration in the records' header: one column per evaluator."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from common.records.store import Record
from common.report.header import budget, expression, find, normal, set_names, short
from common.report.runs import Run, family
from common.report.tables.gradients import gradient_of, mode_name
from common.report.tables.table import Entry, Table

STATED = ("steps", "step_size", "eot", "restarts", "loss", "gradient", "chunk", "attack")
RULES = {"single": "a single draw", "majority": "majority of {}", "mean_logit": "mean logit of {}"}
KNOWS = {"model": "the defence, not its draws", "noise": "the defence and the draws it is scored on"}
CERTIFIERS = {"Lipschitz": "Lipschitz bound, no smoothing", "Claimed": "published constants, no certificate"}
Part = Mapping[str, Any]


def defence(run: Run) -> str:
    """The classifier as an expression, ``Purified(classifier=…, purifier=DiffPure(…))``; empty if not stated."""
    node = normal(find(run.config, "classifier"))
    return expression(node) if node is not None else ""


def protocol_table(run: Run) -> Table:
    """Threat, attack, gradient, samplers, decision rule, draws, resubmissions and seeds of every evaluator of a run."""
    groups: dict[str, list[str]] = {}
    derived = {row.evaluator for row in run.worst}
    for summary in run.summaries:
        if summary.evaluator not in derived:
            groups.setdefault(family(summary.evaluator), []).append(summary.evaluator)
    rows: list[list[Entry]] = []
    for title, say in _SETTINGS:
        said: list[Entry] = [
            say(run, run.part(names[0]), [run.rows(name) for name in names]) for names in groups.values()
        ]
        if any(said):
            rows.append([title, *(entry or None for entry in said)])
    return Table(f"{run.name}: protocol", ["Setting", *groups], rows, names=1, prose=True)


def _threat(run: Run, part: Part, rows: Sequence[list[Record]]) -> str:
    values, threat = rows[0][0].values, normal(part.get("threat")) or {}
    if "distance" not in values:
        return ""
    return budget(values.get("norm", threat.get("norm")), values.get("eps", threat.get("eps"))) or "not recorded"


def _attack(run: Run, part: Part, rows: Sequence[list[Record]]) -> str:
    values = rows[0][0].values
    if "radius" in values:
        return CERTIFIERS.get(
            short(str((normal(part.get("smoothing")) or {}).get("class", ""))), "randomised smoothing"
        )
    if "distance" not in values:
        return "none"
    return f"{attack_name(part.get('attack'))}, {'white' if values.get('white_box', True) else 'black'} box"


def attack_name(attack: Any) -> str:
    """``"APGD"``, or ``"Transfer(PGD)"`` for an attack that is made of another one."""
    node = normal(attack)
    if not isinstance(node, dict):
        return "not recorded"
    name, inner = short(str(node.get("class", "not recorded"))), normal(node.get("attack"))
    return f"{name}({attack_name(inner)})" if isinstance(inner, dict) else name


def _of_attack(key: str) -> "Say":
    def say(run: Run, part: Part, rows: Sequence[list[Record]]) -> str:
        value = find(part.get("attack"), key)
        return "" if value is None else expression(value).replace("_", "-")

    return say


def _other_settings(run: Run, part: Part, rows: Sequence[list[Record]]) -> str:
    attack, said = normal(part.get("attack")) or normal(part.get("smoothing")), list[str]()
    while isinstance(attack, dict):
        names = [name for name in set_names(attack) if name not in STATED]
        said += [_setting(name.replace("_", " "), attack[name]) for name in names]
        attack = normal(attack.get("attack"))
    return ", ".join(said)


def _setting(name: str, value: Any) -> str:
    return name if value is True else f"{name} {expression(value, 2)}"


def _gradient(run: Run, part: Part, rows: Sequence[list[Record]]) -> str:
    values = rows[0][0].values
    if "distance" not in values or not values.get("white_box", True):
        return ""
    gradient = gradient_of(run, rows[0][0].evaluator)
    return mode_name(gradient) if isinstance(gradient, str) else "" if gradient is None else expression(gradient)


def _attack_sampler(run: Run, part: Part, rows: Sequence[list[Record]]) -> str:
    values, deployed = rows[0][0].values, sampler(find(run.config, "classifier"))
    if "distance" not in values or not deployed or not values.get("white_box", True):
        return ""
    gradient = normal(gradient_of(run, rows[0][0].evaluator))
    kind = mode_name(gradient).lower()
    if kind == "surrogate":
        known = gradient if isinstance(gradient, dict) else {}
        solver = known.get("solver")
        used = "the same solver" if solver is None else expression(solver)
        return f"{used}, {known['steps']} steps" if "steps" in known else f"{used}, fewer steps"
    if kind == "adjoint":
        return "forward as deployed, backward by an adjoint equation"
    return "forward as deployed, backward as if it were the identity" if kind == "bpda" else "as deployed"


def _sampler(run: Run, part: Part, rows: Sequence[list[Record]]) -> str:
    return sampler(find(run.config, "classifier"))


def sampler(classifier: Any) -> str:
    """The reverse process of a purifier: its solver, steps and depth; empty if there is none to be found."""
    purifier = normal(find(classifier, "purifier"))
    if not isinstance(purifier, dict):
        return ""
    solver, times = find(purifier, "solver"), find(purifier, "times")
    said = [expression(solver) if solver is not None else short(str(purifier.get("class", "")))]
    steps, start = find(purifier, "steps"), find(purifier, "t_star")
    if isinstance(times, list) and len(times) > 1:
        steps, start = len(times) - 1, times[0]
    said += [f"{steps} steps"] if isinstance(steps, int) else []
    said += [f"t* = {start:.4g}"] if isinstance(start, int | float) else []
    return ", ".join(said)


def _rule(run: Run, part: Part, rows: Sequence[list[Record]]) -> str:
    if "radius" in rows[0][0].values:
        return ""
    return RULES.get(str(part.get("rule", "single")), "{}").format(part.get("votes", 1))


def _draws(run: Run, part: Part, rows: Sequence[list[Record]]) -> str:
    counts = sorted({len(row.values["predictions"]) for seed in rows for row in seed if "predictions" in row.values})
    return " to ".join(map(str, dict.fromkeys([counts[0], counts[-1]]))) if counts else ""


def _resubmissions(run: Run, part: Part, rows: Sequence[list[Record]]) -> str:
    return str(rows[0][0].values.get("resubmissions") or part.get("resubmissions") or "")


def _knows(run: Run, part: Part, rows: Sequence[list[Record]]) -> str:
    values = rows[0][0].values
    if not values.get("white_box", True):
        return "the answers alone, or less"
    known = values.get("knows") or part.get("knows")
    return KNOWS.get(str(known), str(known or ""))


def _seeds(run: Run, part: Part, rows: Sequence[list[Record]]) -> str:
    names = [seed[0].evaluator for seed in rows]
    found = [run.parts[name].get("seed") for name in names if name in run.parts] or [part.get("seed")]
    flat = [value for seed in found for value in (seed if isinstance(seed, list) else [seed]) if value is not None]
    return ", ".join(str(value) for value in dict.fromkeys(flat))


def _images(run: Run, part: Part, rows: Sequence[list[Record]]) -> str:
    return str(len({row.index for seed in rows for row in seed}))


Say = Callable[[Run, Part, Sequence[list[Record]]], str]
_SETTINGS: list[tuple[str, Say]] = [
    ("Attack", _attack),
    ("Threat", _threat),
    ("The attacker knows", _knows),
    ("Steps", _of_attack("steps")),
    ("Step size", _of_attack("step_size")),
    ("EOT draws per step", _of_attack("eot")),
    ("Restarts", _of_attack("restarts")),
    ("Loss", _of_attack("loss")),
    ("Other settings", _other_settings),
    ("Gradient of the defence", _gradient),
    ("Sampler in the attack", _attack_sampler),
    ("Sampler in the defence", _sampler),
    ("Decision rule", _rule),
    ("Fresh decisions N", _draws),
    ("Resubmissions M", _resubmissions),
    ("Seeds", _seeds),
    ("Images", _images),
]
