"""Runs against each other, and attacks against each other, on the images that both saw."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from common.records.paired import Outcomes, Paired, holm, paired
from common.records.store import Record, is_certified, radius_grid
from common.report.header import budget, differences, expression
from common.report.runs import Run, family
from common.report.tables.certification import is_open, targets
from common.report.tables.table import Cell, Entry, Table, percent

SURE = 0.05  # level of all comparisons of a table together
WORST = "worst attack"
NOT_SETTINGS = ("name", "keep_images", "limit")
Seeds = list[list[Record]]  # the records of an evaluator, one list for each of its seeds


@dataclass(frozen=True)
class Compared:
    """``score`` of ``evaluation`` of two runs, or of two attacks."""

    pair: tuple[str, str]
    evaluation: str
    score: str
    found: Paired


def run_table(runs: Sequence[Run]) -> Table:
    """Every two runs, on all that both were asked: accuracies, their difference, its interval, the corrected p."""
    rows, notes = list[Compared](), list[str]()
    asked = [(run, _evaluations(run)) for run in runs]
    for (first, one), (second, other) in combinations(asked, 2):
        for name in one:
            if name in other and not _said_already(first, second, name):
                _compare_runs((first, one[name]), (second, other[name]), name, rows, notes)
    columns = ["Defences", "Evaluation", "Score", "Images", "First", "Second", "First − second", "p", "p, Holm"]
    entries: list[list[Entry]] = [
        [" − ".join(row.pair), row.evaluation, row.score, *numbers]
        for row, numbers in zip(rows, _numbers(rows), strict=True)
    ]
    return Table("Runs compared on their common images, %", columns, entries, names=3, notes=notes)


def attack_table(runs: Sequence[Run]) -> Table:
    """In each run and budget, the attack that leaves least against every other one, on their common images."""
    rows = list[Compared]()
    kept = list[bool]()
    for run in runs:
        for bound, names in _by_budget(run).items():
            outcomes = {name: _pooled(run, name) for name in names}
            pairs = [
                (a, b, paired(outcomes[a], outcomes[b])) for a, b in combinations(names, 2) if _meet(outcomes, a, b)
            ]
            strongest = min(names, key=lambda name: _share(outcomes[name]))
            for a, b, found in pairs:
                if b == strongest:
                    a, b, found = b, a, _swapped(found)
                rows.append(Compared((a, b), run.name, bound, found))
                kept.append(a == strongest)
    columns = ["Defence", "Threat", "Attacks", "Images", "First", "Second", "First − second", "p", "p, Holm"]
    entries: list[list[Entry]] = [
        [row.evaluation, row.score, " − ".join(row.pair), *numbers]
        for row, numbers, shown in zip(rows, _numbers(rows), kept, strict=True)
        if shown
    ]
    return Table("Attacks compared on their common images, average accuracy in %", columns, entries, names=3)


def _compare_runs(
    one: tuple[Run, Seeds], other: tuple[Run, Seeds], name: str, rows: list[Compared], notes: list[str]
) -> None:
    (first, ours), (second, theirs) = one, other
    pair = (first.name, second.name)
    bounds = [budget(row.values.get("norm"), row.values.get("eps")) for row in (ours[0][0], theirs[0][0])]
    if bounds[0] != bounds[1]:
        notes.append(f"{' and '.join(pair)}, {name}: not compared, the budgets differ ({' and '.join(bounds)}).")
        return
    try:
        radii = _asked(first, second, name)
        rows += [Compared(pair, name, score, paired(a, b)) for score, a, b in _scores(ours, theirs, radii)]
    except ValueError as error:
        notes.append(f"{' and '.join(pair)}, {name}: not compared, {error}.")
        return
    notes += [note for run, found in ((first, ours), (second, theirs)) for note in _open(run, name, found[0], radii)]
    changed = _changed(first, second, name)
    if changed:
        notes.append(f"{' and '.join(pair)} attack or score differently in {name}: {'; '.join(changed)}.")


def _open(run: Run, name: str, rows: Sequence[Record], radii: list[float] | None) -> Iterator[str]:
    """Where verdicts are foreseen: how many of them are guesses."""
    for radius in radii or ():
        count = sum(is_open(row, radius) for row in rows)
        if count:
            yield f"{run.name}, {name}: foreseen; verdicts about {radius:g} still open: {count}, taken as is likelier."


def _said_already(first: Run, second: Run, name: str) -> bool:
    """Whether a worst case is that of one and the same attack in both runs."""
    worst = [{f"{WORST}, {budget(*key)}": attack for key, attack in run.worst_names.items()} for run in (first, second)]
    single = [run.attacks for run in (first, second)]
    if not all(name in names for names in worst):
        return False
    one, other = worst[0][name], worst[1][name]
    return one in single[0] and other in single[1] and family(one) == family(other)


def _evaluations(run: Run) -> dict[str, Seeds]:
    """What a run was asked: per evaluation the records of each of its seeds, the worst case per budget besides."""
    found: dict[str, Seeds] = {}
    for summary in [*run.of_kind(0), *run.of_kind(1), *run.of_kind(2)]:
        if summary.evaluator in run.attacks or run.kind(summary.evaluator) != 1:
            found.setdefault(family(summary.evaluator), []).append(run.rows(summary.evaluator))
    worst = {f"{WORST}, {budget(*key)}": [run.rows(name)] for key, name in run.worst_names.items()}
    return found | worst


def _asked(first: Run, second: Run, name: str) -> list[float] | None:
    """The radii that both certifiers were asked about; None if neither was asked about some only."""
    known = [found for found in (targets(first, name), targets(second, name)) if found is not None]
    return sorted(set.intersection(*map(set, known))) if known else None


def _scores(one: Seeds, other: Seeds, radii: list[float] | None) -> Iterator[tuple[str, Outcomes, Outcomes]]:
    if "radius" in one[0][0].values:
        for radius in radius_grid([*one[0], *other[0]])[1:] if radii is None else radii:
            pair = [{r.index: (r.label, [is_certified(r, radius)]) for r in rows} for rows in (one[0], other[0])]
            if any(entry[1][0] for outcomes in pair for entry in outcomes.values()):
                yield f"certified at {radius:g}", pair[0], pair[1]
        return
    first, second = _pool(one), _pool(other)
    yield "average", first, second
    draws = {len(entry[1]) for outcomes in (first, second) for entry in outcomes.values()}
    attacked = "distance" in one[0][0].values
    if attacked and len(one) == len(other) == 1 and len(draws) == 1 and draws != {1}:
        worst = [{i: (label, [all(right)]) for i, (label, right) in rows.items()} for rows in (first, second)]
        yield f"worst of {draws.pop()} draws", worst[0], worst[1]


def _pool(seeds: Seeds) -> Outcomes:
    """Which decisions were right, per image that every seed saw, those of all seeds together."""
    tables = [{row.index: row for row in rows} for rows in seeds]
    common = set.intersection(*(set(table) for table in tables))
    return {
        index: (
            tables[0][index].label,
            [guess == table[index].label for table in tables for guess in table[index].values["predictions"]],
        )
        for index in sorted(common)
    }


def _pooled(run: Run, name: str) -> Outcomes:
    return _pool([run.rows(seeded) for seeded in run.attacks if family(seeded) == name])


def _by_budget(run: Run) -> dict[str, list[str]]:
    """The attacks of a run, seeds together, by budget; only budgets with at least two."""
    found: dict[str, list[str]] = {}
    for name in run.attacks:
        values = run.rows(name)[0].values
        names = found.setdefault(budget(values.get("norm"), values.get("eps")), [])
        if family(name) not in names:
            names.append(family(name))
    return {bound: names for bound, names in found.items() if len(names) > 1}


def _meet(outcomes: dict[str, Outcomes], first: str, second: str) -> bool:
    return bool(outcomes[first].keys() & outcomes[second].keys())


def _share(outcomes: Outcomes) -> float:
    return sum(sum(right) / len(right) for _, right in outcomes.values()) / max(1, len(outcomes))


def _swapped(found: Paired) -> Paired:
    return Paired(found.n, found.second, found.first, -found.high, -found.low, found.p, found.single)


def _changed(first: Run, second: Run, name: str) -> list[str]:
    parts = [{k: v for k, v in run.part(name).items() if k not in NOT_SETTINGS} for run in (first, second)]
    if not all(parts):
        return []
    return [f"{path} {expression(a)} and {expression(b)}" for path, a, b in differences(parts[0], parts[1])]


def _numbers(rows: Sequence[Compared]) -> list[list[Entry]]:
    corrected = holm([row.found.p for row in rows])
    return [_entries(row.found, p) for row, p in zip(rows, corrected, strict=True)]


def _entries(found: Paired, p: float) -> list[Entry]:
    low, high = (f"{100 * value:+.1f}" for value in (found.low, found.high))
    gain = Cell(f"{100 * found.difference:+.1f}".replace("-", "−"), f"[{low}, {high}]".replace("-", "−"), p < SURE)
    return [found.n, percent(found.first), percent(found.second), gain, _p(found.p), Cell(_p(p), "", p < SURE)]


def _p(value: float) -> str:
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}" if value < 0.1 else f"{value:.2f}"
