"""Paired comparisons of runs, and of the attacks of a run, on their common images."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from common.records.paired import Outcomes, Paired, holm, paired
from common.records.schema import AttackedRecord
from common.report.header import budget
from common.report.pairing import Pairing
from common.report.runs import Budget, Evaluation, Run, by_name
from common.report.shared_attacks import listed, settings_changed, shared_worst
from common.report.tables.certification import undecided
from common.report.tables.outcomes import Seeds, common_targets, is_same, pooled, scores, unequal_images
from common.report.tables.table import Cell, Entry, Table, percent

SIGNIFICANCE = 0.05  # of all comparisons of a table together
WORST = "worst attack"
EVERY_TWO = Pairing(every=True)
Pair = tuple[tuple[Run, Seeds], tuple[Run, Seeds]]


@dataclass(frozen=True)
class Comparison:
    """Paired test of ``score`` in an ``evaluation`` of two runs, or of two attacks."""

    pair: tuple[str, str]
    evaluation: str
    score: str
    result: Paired
    outcomes: tuple[Outcomes, Outcomes] = field(repr=False, compare=False)

    @classmethod
    def of(cls, pair: tuple[str, str], evaluation: str, score: str, first: Outcomes, second: Outcomes) -> "Comparison":
        """The test of two sets of outcomes."""
        return cls(pair, evaluation, score, paired(first, second), (first, second))

    def repeats(self, other: "Comparison") -> bool:
        """True if both have the same score and, of both sides, the same outcomes on the same images."""
        pairs = zip(self.outcomes, other.outcomes, strict=True)
        return self.score == other.score and all(
            np.array_equal(a.index, b.index) and np.array_equal(a.correct, b.correct) for a, b in pairs
        )


def run_table(runs: Sequence[Run], pairing: Pairing = EVERY_TWO) -> Table:
    """Pairs of runs, on each evaluation of both: accuracies, their difference, its interval, the corrected p.

    Worst attacks are compared over the attacks that both runs met. Where the worst case of both is one attack alone,
    that comparison is the attack's own and is not repeated, so that the correction counts it once.
    """
    pairs, notes = pairing.of(runs)
    rows = list[Comparison]()
    for pair in pairs:
        compared, remarks = _compare_runs(*pair)
        rows += compared
        notes += remarks
    columns = ["Defences", "Evaluation", "Score", "Images", "First", "Second", "First − second", "p", "p, Holm"]
    entries: list[list[Entry]] = [
        [" − ".join(row.pair), row.evaluation, row.score, *numbers]
        for row, numbers in zip(rows, _numbers(rows), strict=True)
    ]
    return Table("Runs compared on their common images, %", columns, entries, names=3, notes=notes)


def attack_table(runs: Sequence[Run]) -> Table:
    """In each run and budget, the strongest attack on most images against every other one, on their common images."""
    rows, shown, notes = list[Comparison](), list[bool](), list[str]()
    for run in runs:
        for threat, attacks in _by_budget(run).items():
            outcomes = {name: pooled(seeds) for name, seeds in attacks.items()}
            strongest = min(outcomes, key=lambda name: (-len(outcomes[name]), _accuracy(outcomes[name])))
            for a, b in combinations(outcomes, 2):
                if np.intersect1d(outcomes[a].index, outcomes[b].index).size:
                    first, second = (b, a) if b == strongest else (a, b)
                    pair = (outcomes[first], outcomes[second])
                    rows.append(Comparison.of((first, second), run.name, threat, *pair))
                    shown.append(first == strongest)
            counts = {name: len(images) for name, images in outcomes.items()}
            if len(set(counts.values())) > 1:
                notes.append(f"{run.name}, {threat}: attacks on unequally many images, {_counted(counts)}.")
    columns = ["Defence", "Threat", "Attacks", "Images", "First", "Second", "First − second", "p", "p, Holm"]
    entries: list[list[Entry]] = [
        [row.evaluation, row.score, " − ".join(row.pair), *numbers]
        for row, numbers, keep in zip(rows, _numbers(rows), shown, strict=True)
        if keep
    ]
    title = "Attacks compared on their common images, average accuracy in %"
    return Table(title, columns, entries, names=3, notes=notes if entries else [])


def _compare_runs(first: Run, second: Run) -> tuple[list[Comparison], list[str]]:
    """Comparisons of two runs, and notes; a note alone where they cannot be compared."""
    if is_same(first, second):
        return [], [f"{first.name} and {second.name} hold the same records: a run is not compared with itself."]
    rows, notes = list[Comparison](), list[str]()
    ours, theirs = (_evaluations(run) for run in (first, second))
    common = [name for name in ours if name in theirs]
    for name in common:
        compared, remarks = _compare_evaluations(((first, ours[name]), (second, theirs[name])), name)
        rows += compared
        notes += remarks
    for key in first.worst_by_budget:
        if key in second.worst_by_budget:
            compared, remarks = _compare_worst(first, second, key)
            notes += remarks
            for row in compared:
                known = next((one for one in rows if row.repeats(one)), None)
                if known is None:
                    rows.append(row)
                else:
                    notes.append(_repetition(row, known))
    return rows, [*notes, *unequal_images((first, second), [(ours[name], theirs[name]) for name in common])]


def _compare_evaluations(pair: Pair, name: str) -> tuple[list[Comparison], list[str]]:
    """Comparisons in one evaluation of both runs, and notes."""
    (first, ours), (second, theirs) = pair
    names = (first.name, second.name)
    label = f"{' and '.join(names)}, {name}"
    budgets = [_budget(seeds[0]) for seeds in (ours, theirs)]
    if budgets[0] != budgets[1]:
        return [], [f"{label}: not compared, the budgets differ ({' and '.join(budgets)})."]
    try:
        radii = common_targets(ours[0], theirs[0])
        rows = [Comparison.of(names, name, *compared) for compared in scores(ours, theirs, radii)]
    except ValueError as error:
        return [], [f"{label}: not compared, {error}."]
    notes = [note for run, seeds in pair for note in _undecided(run, seeds[0], radii)]
    if changed := settings_changed(ours[0].part, theirs[0].part):
        notes.append(f"{' and '.join(names)} attack or score differently in {name}: {'; '.join(changed)}.")
    return rows, notes


def _compare_worst(first: Run, second: Run, key: Budget) -> tuple[list[Comparison], list[str]]:
    """Comparisons of the worst attack within a budget over the attacks of both, and a note on all others.

    A single attack of both is compared under its own name alone.
    """
    titles = [[one.title for one in run.attacks if _budget(one) == budget(*key)] for run in (first, second)]
    if titles[0] == titles[1] and len(titles[0]) == 1:
        return [], []
    shared, name = shared_worst((first, second), key), f"{WORST}, {budget(*key)}"
    label = f"{first.name} and {second.name}, {name}"
    others = f" ({'; '.join(shared.left_out)})" if shared.left_out else ""
    if len(shared.attacks) < 2:
        met = f"{shared.attacks[0].title} alone" if shared.attacks else "no attack with the same settings"
        return [], [f"{label}: not compared, both met {met}{others}."] if others else []
    ours, theirs = shared.worst
    try:
        rows = [Comparison.of((first.name, second.name), name, *one) for one in scores([ours], [theirs], None)]
    except ValueError as error:
        return [], [f"{label}: not compared, {error}."]
    both = listed([source.title for source in shared.attacks])
    return rows, [f"{label}: over the attacks of both, {both}{others}."] if others else []


def _repetition(row: Comparison, other: Comparison) -> str:
    label = f"{' and '.join(row.pair)}, {row.evaluation}, {row.score}"
    return f"{label}: the worst case of both is that of {other.evaluation}, which is counted once."


def _counted(counts: Mapping[str, int]) -> str:
    return listed([f"{name} {count}" for name, count in counts.items()])


def _budget(evaluation: Evaluation[Any]) -> str:
    row = evaluation.rows[0]
    return budget(row.norm, row.eps) if isinstance(row, AttackedRecord) else ""


def _undecided(run: Run, evaluation: Evaluation[Any], radii: Sequence[float] | None) -> Iterator[str]:
    for radius in radii or ():
        if count := int(undecided(evaluation.rows, radius).sum()):
            yield f"{run.name}, {evaluation.title}: forecast; {count} undecided at {radius:g}, taken as the likelier."


def _evaluations(run: Run) -> dict[str, Seeds]:
    """Evaluations of a run by name, the seeds of each together."""
    return {**by_name(run.clean), **by_name(run.attacks), **by_name(run.certified)}


def _by_budget(run: Run) -> dict[str, Mapping[str, Seeds]]:
    """Attacks of a run by budget, the seeds of each together; only budgets with at least two attacks."""
    budgets: dict[str, dict[str, list[Evaluation[AttackedRecord]]]] = {}
    for name, seeds in by_name(run.attacks).items():
        budgets.setdefault(_budget(seeds[0]), {})[name] = seeds
    return {threat: attacks for threat, attacks in budgets.items() if len(attacks) > 1}


def _accuracy(outcomes: Outcomes) -> float:
    return math.fsum((outcomes.correct / outcomes.decisions).tolist()) / max(1, len(outcomes))


def _numbers(rows: Sequence[Comparison]) -> list[list[Entry]]:
    corrected = holm([row.result.p for row in rows])
    return [_entries(row.result, p) for row, p in zip(rows, corrected, strict=True)]


def _entries(result: Paired, corrected: float) -> list[Entry]:
    low, high = (f"{100 * value:+.1f}" for value in (result.low, result.high))
    interval = f"[{low}, {high}]".replace("-", "−")
    gain = Cell(f"{100 * result.difference:+.1f}".replace("-", "−"), interval, corrected < SIGNIFICANCE)
    p = Cell(_p_value(corrected), "", corrected < SIGNIFICANCE)
    return [result.n, percent(result.first), percent(result.second), gain, _p_value(result.p), p]


def _p_value(value: float) -> str:
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}" if value < 0.1 else f"{value:.2f}"
