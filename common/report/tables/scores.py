"""Scores beside the summaries': matched controls, the attack's own loop, resubmissions, classes, seeds, cost."""

import math
from collections.abc import Sequence
from itertools import groupby

from common.records.store import Record, interval, summarise
from common.report.header import budget
from common.report.runs import Run, family
from common.report.tables.table import Cell, Entry, Table, Triple

UNKNOWN = "not recorded"
ASKED = {  # where the decisions on each kind of image are kept
    "attacked image": "predictions",
    "clean image": "clean_predictions",
    "random perturbation": "random_predictions",
}


def average(rows: Sequence[Record], key: str = "predictions") -> Triple:
    """Mean over images of the share of right decisions among those kept under ``key``, with its interval."""
    right = math.fsum(sum(g == row.label for g in row.values[key]) / len(row.values[key]) for row in rows)
    return right / len(rows), *interval(min(right, len(rows)), len(rows))


def resubmitted(rows: Sequence[Record], times: int) -> Triple:
    """Accuracy against an attacker who hands in each image ``times`` M times, from N >= M decisions.

    An image with k of N decisions right survives M of them, drawn without replacement, with probability
    C(k, M) / C(N, M); for M = 1 this is the average, for M = N the worst case.
    """
    survived = 0.0
    for row in rows:
        guesses = row.values["predictions"]
        survived += math.comb(sum(g == row.label for g in guesses), times) / math.comb(len(guesses), times)
    return survived / len(rows), *interval(min(survived, len(rows)), len(rows))


def in_loop(rows: Sequence[Record]) -> tuple[Triple, float | None] | None:
    """Share of images that no query of the attack's own loop saw misclassified, and the queries per image."""
    seen = [row for row in rows if "broken" in row.values]
    if not seen:
        return None
    intact = sum(not row.values["broken"] for row in seen)
    queries = [row.values["queries"] for row in seen if "queries" in row.values]
    return (intact / len(seen), *interval(intact, len(seen))), sum(queries) / len(queries) if queries else None


def control_table(runs: Sequence[Run]) -> Table:
    """The scores of each attack beside those of as many queries without one, and beside what its loop saw."""
    rows = [row for run in runs for name in run.attacks for row in _controls(run, name)]
    columns = ["Defence", "Evaluation", "Asked about", "Queries", "Average", "Worst draw", "Majority", "Worst of M"]
    if all(row[-1] is None for row in rows):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    return Table("Matched queries, accuracy in %", columns, rows, names=3)


def _controls(run: Run, name: str) -> list[list[Entry]]:
    rows, found = run.rows(name), list[list[Entry]]()
    times = rows[0].values.get("resubmissions") or 1
    for asked, key in ASKED.items():
        kept = [Record(name, r.index, r.label, {"predictions": r.values[key]}) for r in rows if r.values.get(key)]
        if not kept:
            continue
        draws = len(kept[0].values["predictions"])
        metrics = summarise(kept)[0].metrics
        several = resubmitted(kept, times) if 1 < times < draws else None
        found.append([run.name, name, asked, draws, metrics["Avg"], metrics.get(f"Wor@{draws}")])
        found[-1] += [metrics.get(f"MV@{draws}"), several]
    if loop := in_loop(rows):
        queries = UNKNOWN if loop[1] is None else f"{loop[1]:,.0f}"
        found.append([run.name, name, "any point of its loop", queries, None, loop[0], None, None])
    return found


def probe_table(runs: Sequence[Run]) -> Table:
    """The attacks that only serve the checks: budgets, what was attacked, and what survived."""
    rows: list[list[Entry]] = []
    for run in runs:
        for summary in run.probes:
            values = run.rows(summary.evaluator)[0].values
            asked = budget(values.get("norm"), values.get("eps")) or None
            attacked = f"{values['baseline']} classifier" if "baseline" in values else "the defence"
            rows.append([run.name, summary.evaluator, attacked, asked, summary.n, summary.metrics["Avg"]])
    return Table("Attacks run for the checks alone, %", _PROBED, rows, names=3)


_PROBED = ["Defence", "Evaluation", "Attacked", "Threat", "Images", "Average"]


def class_table(run: Run) -> Table:
    """Per class, by number: images, clean accuracy and the average under every attack, each with its interval."""
    attacks = [summary.evaluator for summary in run.of_kind(1)]
    clean = [summary.evaluator for summary in run.of_kind(0)][:1]
    worst = {name: f"worst attack, {budget(*key)}" for key, name in run.worst_names.items() if name not in run.attacks}
    columns = [(worst.get(name, name), run.rows(name), "predictions") for name in [*clean, *attacks]]
    if not clean and attacks and all("clean_predictions" in row.values for row in run.rows(attacks[0])):
        columns.insert(0, ("clean", run.rows(attacks[0]), "clean_predictions"))
    groups = [(_by_class(rows), key) for _, rows, key in columns]
    rows: list[list[Entry]] = []
    for label in sorted({label for group, _ in groups for label in group}):
        count = max(len(group.get(label, [])) for group, _ in groups)
        rows.append([str(label), count, *(_of_class(group.get(label, []), key, count) for group, key in groups)])
    return Table(f"{run.name}: average accuracy by class, %", ["Class", "Images", *(c[0] for c in columns)], rows, 1)


def _by_class(rows: Sequence[Record]) -> dict[int, list[Record]]:
    ordered = sorted(rows, key=lambda row: row.label)
    return {label: list(group) for label, group in groupby(ordered, key=lambda row: row.label)}


def _of_class(rows: list[Record], key: str, count: int) -> Entry:
    if not rows:
        return None
    triple = average(rows, key)
    if len(rows) == count:
        return triple
    return Cell(f"{100 * triple[0]:.1f}", f"[{100 * triple[1]:.1f}, {100 * triple[2]:.1f}] of {len(rows)}", True)


def seed_table(runs: Sequence[Run]) -> Table:
    """Evaluators that ran with several seeds: the mean of their averages, the extremes, the spread between seeds."""
    rows: list[list[Entry]] = []
    for run in runs:
        names = [summary.evaluator for kind in (0, 1) for summary in run.of_kind(kind)]
        for name, same in groupby(sorted(names, key=family), key=family):
            values = [average(run.rows(seeded))[0] for seeded in same]
            if len(values) > 1:
                mean = sum(values) / len(values)
                spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
                ends = (f"{100 * value:.1f}" for value in (min(values), max(values)))
                rows.append([run.name, name, len(values), f"{100 * mean:.1f}", *ends, f"{100 * spread:.2f}"])
    columns = ["Defence", "Evaluation", "Seeds", "Mean", "Lowest", "Highest", "Standard deviation"]
    return Table("Average accuracy over seeds, %", columns, rows)


def cost_table(runs: Sequence[Run]) -> Table:
    """What every evaluation took per image. It stands in the part files alone; where it is missing, that is said."""
    rows = [_cost(run, name) for run in runs for name in run.evaluators]
    columns = ["Defence", "Evaluation", "Images", "Network evaluations", "Seconds", "Peak memory, GB"]
    return Table("Cost per image", columns, rows, notes=[_PEAK] if rows else [])


_PEAK = (
    "Network evaluations count every row that passes a network, forward and again where a backward pass recomputes it. "
    "Peak memory is the most that tensors took on a GPU, or that the process ever took on a CPU."
)


def _cost(run: Run, name: str) -> list[Entry]:
    rows = run.rows(name)
    evaluations, seconds, peak = (
        [float(row.cost[key]) for row in rows if row.cost.get(key) is not None]
        for key in ("evaluations", "seconds", "peak_bytes")
    )
    means = (f"{sum(v) / len(v):{form}}" if v else UNKNOWN for v, form in ((evaluations, ",.0f"), (seconds, ",.3g")))
    return [run.name, name, len(rows), *means, f"{max(peak) / 1e9:.2f}" if any(peak) else UNKNOWN]
