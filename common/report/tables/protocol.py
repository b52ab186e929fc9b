"""Protocol of a run, from its header and records: one column per evaluator, one row per setting."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from common.records.column_rows import all_images
from common.records.schema import AttackedRecord, CertifiedRecord, ClaimedRecord, PredictionRecord
from common.report.header import budget, expression, find, normal, set_names, short
from common.report.runs import Evaluation, Run, by_name
from common.report.tables.gradients import gradient_note, gradient_of, mode_name
from common.report.tables.table import Entry, Table

STATED = ("steps", "step_size", "eot", "restarts", "loss", "gradient", "chunk", "attack")
RULES = {"single": "a single draw", "majority": "majority of {}", "mean_logit": "mean logit of {}"}
KNOWS = {"model": "the defence, not its draws", "noise": "the defence and the scored draws"}
Seeds = Sequence[Evaluation[Any]]  # the seeds of one evaluator
Setting = Callable[[Run, Seeds], str]


def defence(run: Run) -> str:
    """The classifier as an expression, ``Purified(classifier=…, purifier=DiffPure(…))``; empty if not stated."""
    node = normal(find(run.config, "classifier"))
    return expression(node) if node is not None else ""


def protocol_table(run: Run) -> Table:
    """Threat, attack, gradient, samplers, decision rule, draws, resubmissions and seeds of every evaluator of a run."""
    evaluations: list[Evaluation[Any]] = [*run.clean, *run.attacks, *run.certified, *run.claimed]
    groups = by_name(evaluations)
    rows: list[list[Entry]] = []
    for title, setting in _SETTINGS:
        entries: list[Entry] = [setting(run, seeds) for seeds in groups.values()]
        if any(entries):
            rows.append([title, *(entry or None for entry in entries)])
    return Table(f"{run.name}: protocol", ["Setting", *groups], rows, names=1, prose=True)


def attack_name(attack: Any) -> str:
    """``"APGD"``, ``"Transfer(PGD)"`` for an attack around another one, ``"AutoAttack standard, assembled"``."""
    node = normal(attack)
    if not isinstance(node, dict):
        return "not recorded"
    name, inner = short(str(node.get("class", "not recorded"))), normal(node.get("attack"))
    if isinstance(version := node.get("version"), str):
        made = node.get("implementation")
        name = f"{'reduced ' * (node.get('reduced') is True)}{name} {version}{f', {made}' if made else ''}"
    return f"{name}({attack_name(inner)})" if isinstance(inner, dict) else name


def sampler(classifier: Any) -> str:
    """Reverse process of a described purifier: its solver, steps and diffusion time; empty without a purifier."""
    purifier = normal(find(classifier, "purifier"))
    if not isinstance(purifier, dict):
        return ""
    solver, times = find(purifier, "solver"), find(purifier, "times")
    shown = [expression(solver) if solver is not None else short(str(purifier.get("class", "")))]
    steps, start = find(purifier, "steps"), find(purifier, "t_star")
    if isinstance(times, list) and len(times) > 1:
        steps, start = len(times) - 1, times[0]
    shown += [f"{steps} steps"] if isinstance(steps, int) else []
    shown += [f"t* = {start:.4g}"] if isinstance(start, int | float) else []
    return ", ".join(shown)


def _attacked(seeds: Seeds) -> AttackedRecord | None:
    """First row of an attack; None of other evaluations."""
    row = seeds[0].rows[0]
    return row if isinstance(row, AttackedRecord) else None


def _white_box(seeds: Seeds) -> bool:
    row = _attacked(seeds)
    return row is not None and row.white_box


def _threat(run: Run, seeds: Seeds) -> str:
    row = _attacked(seeds)
    return "" if row is None else budget(row.norm, row.eps)


def _attack(run: Run, seeds: Seeds) -> str:
    row, part = seeds[0].rows[0], seeds[0].part
    if isinstance(row, CertifiedRecord):
        return _certifier(row, normal(part.get("smoothing")) or {})
    if not isinstance(row, AttackedRecord):
        return "none"
    return f"{attack_name(part.get('attack'))}, {'white' if row.white_box else 'black'} box"


def _certifier(row: CertifiedRecord, part: Mapping[str, Any]) -> str:
    if isinstance(row, ClaimedRecord):
        return "published formula, no certificate"
    return "randomised smoothing" if part.get("sigma") or not part else f"{short(str(part.get('class')))}, no smoothing"


def _knows(run: Run, seeds: Seeds) -> str:
    row = _attacked(seeds)
    if row is None:
        return ""
    return KNOWS.get(row.knows, row.knows) if row.white_box else "the outputs alone, or less"


def _of_attack(key: str) -> Setting:
    def setting(run: Run, seeds: Seeds) -> str:
        value = find(seeds[0].part.get("attack"), key)
        return "" if value is None else expression(value).replace("_", "-")

    return setting


def _other_settings(run: Run, seeds: Seeds) -> str:
    part, shown = seeds[0].part, list[str]()
    node = normal(part.get("attack")) or normal(part.get("smoothing"))
    while isinstance(node, dict):
        names = [name for name in set_names(node) if name not in STATED]
        shown += [_named(name.replace("_", " "), node[name]) for name in names]
        node = normal(node.get("attack"))
    return ", ".join(shown)


def _named(name: str, value: Any) -> str:
    return name if value is True else f"{name} {expression(value, 2)}"


def _gradient(run: Run, seeds: Seeds) -> str:
    if not _white_box(seeds):
        return ""
    gradient = gradient_of(run, seeds[0])
    return mode_name(gradient) if isinstance(gradient, str) else "" if gradient is None else expression(gradient)


def _gradient_note(run: Run, seeds: Seeds) -> str:
    return gradient_note(run, seeds[0])


def _attack_sampler(run: Run, seeds: Seeds) -> str:
    if not _white_box(seeds) or not sampler(find(run.config, "classifier")):
        return ""
    gradient: Mapping[str, Any] | str = normal(gradient_of(run, seeds[0]))
    mode = mode_name(gradient).lower()
    if mode == "surrogate":
        settings = gradient if isinstance(gradient, Mapping) else {}
        solver = settings.get("solver")
        used = "the same solver" if solver is None else expression(solver)
        return f"{used}, {settings['steps']} steps" if "steps" in settings else f"{used}, fewer steps"
    if mode == "adjoint":
        settings = gradient if isinstance(gradient, Mapping) else {}
        own = [
            f"{name} = {settings[name]:g}" for name in ("dt", "t_end") if isinstance(settings.get(name), int | float)
        ]
        return f"{', '.join(own) if own else 'forward as deployed'}, backward by an adjoint equation"
    return "forward as deployed, backward as the identity" if mode == "bpda" else "as deployed"


def _sampler(run: Run, seeds: Seeds) -> str:
    return sampler(find(run.config, "classifier"))


def _rule(run: Run, seeds: Seeds) -> str:
    row, part = seeds[0].rows[0], seeds[0].part
    if isinstance(row, CertifiedRecord):
        return ""
    return RULES.get(str(part.get("rule", "single")), "{}").format(part.get("votes", 1))


def _draws(run: Run, seeds: Seeds) -> str:
    parts = [seed.rows for seed in seeds if issubclass(seed.rows.kind, PredictionRecord)]
    counts = {count for rows in parts for count in np.unique(rows.lists("predictions").lengths).tolist()}
    return " to ".join(map(str, dict.fromkeys([min(counts), max(counts)]))) if counts else ""


def _resubmissions(run: Run, seeds: Seeds) -> str:
    row = _attacked(seeds)
    return "" if row is None else str(row.resubmissions)


def _seeds(run: Run, seeds: Seeds) -> str:
    return ", ".join(str(seed.source.seed) for seed in seeds)


def _images(run: Run, seeds: Seeds) -> str:
    return str(len(all_images([seed.rows for seed in seeds])))


_SETTINGS: list[tuple[str, Setting]] = [
    ("Attack", _attack),
    ("Threat", _threat),
    ("Attacker's knowledge", _knows),
    ("Steps", _of_attack("steps")),
    ("Step size", _of_attack("step_size")),
    ("EOT draws per step", _of_attack("eot")),
    ("Restarts", _of_attack("restarts")),
    ("Loss", _of_attack("loss")),
    ("Other settings", _other_settings),
    ("Gradient of the defence", _gradient),
    ("Gradient of the attack, grid and cosine with the exact one", _gradient_note),
    ("Sampler in the attack", _attack_sampler),
    ("Sampler in the defence", _sampler),
    ("Decision rule", _rule),
    ("Fresh decisions N", _draws),
    ("Resubmissions M", _resubmissions),
    ("Seeds", _seeds),
    ("Images", _images),
]
