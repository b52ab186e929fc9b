"""Paired comparisons of runs, and of the attacks of a run, on their common images."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from common.records.dotted_paths import differences
from common.records.paired import Outcomes, Paired, holm, paired
from common.records.schema import AttackedRecord, PredictionRecord, Role, Source
from common.records.summary import is_certified, radius_grid
from common.report.header import budget, expression
from common.report.runs import Evaluation, Run, by_name
from common.report.tables.certification import Certificates, is_undecided, targets
from common.report.tables.table import Cell, Entry, Table, percent

SIGNIFICANCE = 0.05  # of all comparisons of a table together
WORST = "worst attack"
NOT_SETTINGS = ("name", "role", "keep_images", "limit")
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
    """Every two runs, on each evaluation of both: accuracies, their difference, its interval, the corrected p."""
    rows, notes = list[Comparison](), list[str]()
    evaluated = [(run, _evaluations(run)) for run in runs]
    for (first, one), (second, other) in combinations(evaluated, 2):
        for source in one:
            if source in other and not _same_single_attack(one[source], other[source], source):
                compared, remarks = _compare_runs(((first, one[source]), (second, other[source])), source)
                rows += compared
                notes += remarks
    columns = ["Defences", "Evaluation", "Score", "Images", "First", "Second", "First − second", "p", "p, Holm"]
    entries: list[list[Entry]] = [
        [" − ".join(row.pair), row.evaluation, row.score, *numbers]
        for row, numbers in zip(rows, _numbers(rows), strict=True)
    ]
    return Table("Runs compared on their common images, %", columns, entries, names=3, notes=notes)


def attack_table(runs: Sequence[Run]) -> Table:
    """In each run and budget, the strongest attack against every other one, on their common images."""
    rows, shown = list[Comparison](), list[bool]()
    for run in runs:
        for threat, attacks in _by_budget(run).items():
            outcomes = {name: _pool(seeds) for name, seeds in attacks.items()}
            strongest = min(outcomes, key=lambda name: _accuracy(outcomes[name]))
            for a, b in combinations(outcomes, 2):
                if outcomes[a].keys() & outcomes[b].keys():
                    first, second = (b, a) if b == strongest else (a, b)
                    rows.append(
                        Comparison((first, second), run.name, threat, paired(outcomes[first], outcomes[second]))
                    )
                    shown.append(first == strongest)
    columns = ["Defence", "Threat", "Attacks", "Images", "First", "Second", "First − second", "p", "p, Holm"]
    entries: list[list[Entry]] = [
        [row.evaluation, row.score, " − ".join(row.pair), *numbers]
        for row, numbers, keep in zip(rows, _numbers(rows), shown, strict=True)
        if keep
    ]
    return Table("Attacks compared on their common images, average accuracy in %", columns, entries, names=3)


def _compare_runs(pair: Pair, source: Source) -> tuple[list[Comparison], list[str]]:
    """Comparisons of two runs in one evaluation, and notes; a note alone where they cannot be compared."""
    (first, ours), (second, theirs) = pair
    names, name = (first.name, second.name), source.evaluator
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
    if source.role is not Role.WORST_CASE and (changed := _changed(ours[0].part, theirs[0].part)):
        notes.append(f"{' and '.join(names)} attack or score differently in {name}: {'; '.join(changed)}.")
    return rows, notes


def _budget(evaluation: Evaluation[Any]) -> str:
    row = evaluation.rows[0]
    return budget(row.norm, row.eps) if isinstance(row, AttackedRecord) else ""


def _undecided(run: Run, evaluation: Evaluation[Any], radii: Sequence[float] | None) -> Iterator[str]:
    for radius in radii or ():
        if count := sum(is_undecided(row, radius) for row in evaluation.rows):
            yield f"{run.name}, {evaluation.title}: forecast; {count} undecided at {radius:g}, taken as the likelier."


def _same_single_attack(one: Seeds, other: Seeds, source: Source) -> bool:
    """True for a worst case that is, in both runs, the run's only attack: it is compared under its own name."""
    single = all(seeds[0].source.role is Role.RESULT for seeds in (one, other))
    return single and source.role is Role.WORST_CASE and one[0].name == other[0].name


def _evaluations(run: Run) -> dict[Source, Seeds]:
    """Evaluations of a run, the seeds of each together (seed 0 in the key), and the worst case per budget."""
    own: dict[str, Seeds] = {**by_name(run.clean), **by_name(run.attacks), **by_name(run.certified)}
    worst = {f"{WORST}, {budget(*key)}": one for key, one in run.worst_by_budget.items()}
    return {
        **{Source(name): seeds for name, seeds in own.items()},
        **{Source(name, role=Role.WORST_CASE): [one] for name, one in worst.items()},
    }


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


def _changed(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    parts = [{k: v for k, v in part.items() if k not in NOT_SETTINGS} for part in (first, second)]
    if not all(parts):
        return []
    return [f"{path} {expression(a)} and {expression(b)}" for path, a, b in differences(parts[0], parts[1])]


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
