"""Paired comparisons of runs, and of the attacks of a run, on their common images."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from common.records.paired import Outcomes, Paired, holm, paired
from common.records.schema import AttackedRecord, PredictionRecord
from common.records.summary import is_certified, radius_grid
from common.report.header import budget
from common.report.runs import Budget, Evaluation, Run, by_name
from common.report.shared_attacks import listed, settings_changed, shared_worst
from common.report.tables.certification import Certificates, is_undecided, targets
from common.report.tables.table import Cell, Entry, Table, percent

SIGNIFICANCE = 0.05  # of all comparisons of a table together
WORST = "worst attack"
Seeds = Sequence[Evaluation[Any]]  # the seeds of one evaluator
Pair = tuple[tuple[Run, Seeds], tuple[Run, Seeds]]


@dataclass(frozen=True)
class Comparison:
    """Paired test of ``score`` in an ``evaluation`` of two runs, or of two attacks."""

    pair: tuple[str, str]
    evaluation: str
    score: str
    result: Paired


def run_table(runs: Sequence[Run]) -> Table:
    """Every two runs, on each evaluation of both: accuracies, their difference, its interval, the corrected p.

    Worst attacks are compared over the attacks that both runs met.
    """
    rows, notes = list[Comparison](), list[str]()
    for pair in combinations(runs, 2):
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
            outcomes = {name: _pool(seeds) for name, seeds in attacks.items()}
            strongest = min(outcomes, key=lambda name: (-len(outcomes[name]), _accuracy(outcomes[name])))
            for a, b in combinations(outcomes, 2):
                if outcomes[a].keys() & outcomes[b].keys():
                    first, second = (b, a) if b == strongest else (a, b)
                    rows.append(
                        Comparison((first, second), run.name, threat, paired(outcomes[first], outcomes[second]))
                    )
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
            rows += compared
            notes += remarks
    return rows, [*notes, *_unequal_images((first, second), [(ours[name], theirs[name]) for name in common])]


def _compare_evaluations(pair: Pair, name: str) -> tuple[list[Comparison], list[str]]:
    """Comparisons in one evaluation of both runs, and notes."""
    (first, ours), (second, theirs) = pair
    names = (first.name, second.name)
    label = f"{' and '.join(names)}, {name}"
    budgets = [_budget(seeds[0]) for seeds in (ours, theirs)]
    if budgets[0] != budgets[1]:
        return [], [f"{label}: not compared, the budgets differ ({' and '.join(budgets)})."]
    try:
        radii = _common_targets(ours[0], theirs[0])
        rows = [Comparison(names, name, score, paired(a, b)) for score, a, b in _scores(ours, theirs, radii)]
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
        scores = list(_scores([ours], [theirs], None))
        rows = [Comparison((first.name, second.name), name, score, paired(a, b)) for score, a, b in scores]
    except ValueError as error:
        return [], [f"{label}: not compared, {error}."]
    both = listed([source.title for source in shared.attacks])
    return rows, [f"{label}: over the attacks of both, {both}{others}."] if others else []


def is_same(first: Run, second: Run) -> bool:
    """True if one run holds the rows of the other, as a copy of it or a part of it does."""
    known, other = sorted(({row.key: row for row in run.records} for run in (first, second)), key=len)
    return first.fingerprint == second.fingerprint and all(other.get(key) == row for key, row in known.items())


def _unequal_images(pair: tuple[Run, Run], evaluated: Sequence[tuple[Seeds, Seeds]]) -> Iterator[str]:
    """Notes on evaluations of which one run has more images than the other: it may be unfinished."""
    counts: dict[tuple[int, ...], list[str]] = {}
    for seeds in evaluated:
        images = [set().union(*(one.indices for one in each)) for each in seeds]
        if images[0] != images[1]:
            sizes = (len(images[0] & images[1]), *map(len, images))
            counts.setdefault(sizes, []).append(seeds[0][0].name)
    for (common, ours, theirs), names in counts.items():
        first, second = (run.name for run in pair)
        yield (
            f"{first} has {ours} and {second} {theirs} images in {listed(names)}, {common} in common: a run may be "
            "unfinished."
        )


def _counted(counts: Mapping[str, int]) -> str:
    return listed([f"{name} {count}" for name, count in counts.items()])


def _budget(evaluation: Evaluation[Any]) -> str:
    row = evaluation.rows[0]
    return budget(row.norm, row.eps) if isinstance(row, AttackedRecord) else ""


def _undecided(run: Run, evaluation: Evaluation[Any], radii: Sequence[float] | None) -> Iterator[str]:
    for radius in radii or ():
        if count := sum(is_undecided(row, radius) for row in evaluation.rows):
            yield f"{run.name}, {evaluation.title}: forecast; {count} undecided at {radius:g}, taken as the likelier."


def _evaluations(run: Run) -> dict[str, Seeds]:
    """Evaluations of a run by name, the seeds of each together."""
    return {**by_name(run.clean), **by_name(run.attacks), **by_name(run.certified)}


def _common_targets(first: Evaluation[Any], second: Evaluation[Any]) -> list[float] | None:
    """Target radii of both certifiers; None if neither has any."""
    known = [radii for radii in (targets(first), targets(second)) if radii is not None]
    return sorted(set.intersection(*map(set, known))) if known else None


def _scores(one: Seeds, other: Seeds, radii: list[float] | None) -> Iterator[tuple[str, Outcomes, Outcomes]]:
    if not isinstance(one[0].rows[0], PredictionRecord):
        yield from _certified_scores(one[0], other[0], radii)
        return
    first, second = _pool(one), _pool(other)
    yield "average", first, second
    draws = {len(entry[1]) for outcomes in (first, second) for entry in outcomes.values()}
    attacked = isinstance(one[0].rows[0], AttackedRecord)
    if attacked and len(one) == len(other) == 1 and len(draws) == 1 and draws != {1}:
        worst = [{i: (label, [all(correct)]) for i, (label, correct) in rows.items()} for rows in (first, second)]
        yield f"worst of {draws.pop()} draws", worst[0], worst[1]


def _certified_scores(
    one: Certificates, other: Certificates, radii: list[float] | None
) -> Iterator[tuple[str, Outcomes, Outcomes]]:
    for radius in radius_grid([*one.rows, *other.rows])[1:] if radii is None else radii:
        pair = [{r.index: (r.label, [is_certified(r, radius)]) for r in side.rows} for side in (one, other)]
        if any(entry[1][0] for outcomes in pair for entry in outcomes.values()):
            yield f"certified at {radius:g}", pair[0], pair[1]


def _pool(seeds: Seeds) -> Outcomes:
    """Correctness of the decisions of all seeds together, per image that every seed evaluated."""
    tables = [{row.index: row for row in seed.rows} for seed in seeds]
    common = set.intersection(*(set(table) for table in tables))
    return {
        index: (tables[0][index].label, [correct for table in tables for correct in table[index].correct])
        for index in sorted(common)
    }


def _by_budget(run: Run) -> dict[str, Mapping[str, Seeds]]:
    """Attacks of a run by budget, the seeds of each together; only budgets with at least two attacks."""
    budgets: dict[str, dict[str, list[Evaluation[AttackedRecord]]]] = {}
    for name, seeds in by_name(run.attacks).items():
        budgets.setdefault(_budget(seeds[0]), {})[name] = seeds
    return {threat: attacks for threat, attacks in budgets.items() if len(attacks) > 1}


def _accuracy(outcomes: Outcomes) -> float:
    return sum(sum(correct) / len(correct) for _, correct in outcomes.values()) / max(1, len(outcomes))


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
