"""Tables of matched queries: each attack beside as many queries without one, and attacks run for the masking checks."""

import math
from collections.abc import Sequence

import numpy as np

from common.records.column_fields import is_unknown
from common.records.column_rows import Rows
from common.records.intervals import Share, share
from common.records.schema import AttackedRecord, PredictionRecord, Role
from common.records.summary import accuracies, correct_draws
from common.report.header import budget
from common.report.runs import Evaluation, Run
from common.report.tables.table import Entry, Table

UNKNOWN = "not recorded"


def resubmitted(rows: Sequence[PredictionRecord], times: int, predictions: str = "predictions") -> Share:
    """Accuracy against an attacker with M = ``times`` submissions per image, from N >= M decisions.

    An image with k of N decisions correct survives M of them, drawn without replacement, with probability
    C(k, M) / C(N, M); for M = 1 this is the average, for M = N the worst case.
    """
    table = Rows.of(rows)
    lists = table.lists(predictions)
    right = lists.totals(correct_draws(lists, table.label).astype(np.int64))
    pairs, images = np.unique(np.stack([right, lists.counts]), axis=1, return_counts=True)
    survived = sum(
        count * math.comb(k, times) / math.comb(n, times)
        for k, n, count in zip(*pairs.tolist(), images.tolist(), strict=True)
    )
    return share(survived, len(table))


def in_loop(rows: Sequence[AttackedRecord]) -> tuple[Share, float | None] | None:
    """Share of images that no query of the attack's own loop misclassified, and the queries per image."""
    table = Rows.of(rows)
    broken, queries = table.array("broken"), table.array("queries")
    reported = ~is_unknown(broken)
    if not reported.any():
        return None
    known = queries[reported & ~is_unknown(queries)]
    intact = share(int((broken[reported] == 0).sum()), int(reported.sum()))
    return intact, int(known.sum()) / len(known) if len(known) else None


def control_table(runs: Sequence[Run]) -> Table:
    """Scores of each attack beside those of as many queries without one, and beside those of its own loop."""
    rows = [row for run in runs for attack in run.attacks for row in _controls(run, attack)]
    columns = ["Defence", "Evaluation", "Queries on", "Queries", "Average", "Worst draw", "Majority", "Worst of M"]
    if all(row[-1] is None for row in rows):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    return Table("Matched queries, accuracy in %", columns, rows, names=3)


def _controls(run: Run, attack: Evaluation[AttackedRecord]) -> list[list[Entry]]:
    rows = attack.rows
    drawn = rows.lists("random_predictions").counts > 0
    kinds: list[tuple[str, Rows[AttackedRecord], str]] = [
        ("attacked image", rows, "predictions"),
        ("clean image", rows, "clean_predictions"),
        ("random perturbation", rows if drawn.all() else rows.take(drawn), "random_predictions"),
    ]
    times = rows[0].resubmissions
    entries: list[list[Entry]] = [
        [run.name, attack.title, kind, *_scores(part, name, times)] for kind, part, name in kinds if len(part)
    ]
    if loop := in_loop(rows):
        queries = UNKNOWN if loop[1] is None else f"{loop[1]:,.0f}"
        entries.append([run.name, attack.title, "any point of its loop", queries, None, loop[0], None, None])
    return entries


def _scores(rows: Rows[AttackedRecord], predictions: str, times: int) -> list[Entry]:
    lists = rows.lists(predictions)
    metrics = accuracies(rows.source.evaluator, lists, rows.label)
    draws = int(lists.lengths[0])
    several = resubmitted(rows, times, predictions) if 1 < times < draws else None
    return [draws, metrics["Avg"], metrics.get(f"Wor@{draws}"), metrics.get(f"MV@{draws}"), several]


def comparison_table(runs: Sequence[Run]) -> Table:
    """Attacks that only the masking checks use: budget, attacked classifier, accuracy."""
    rows: list[list[Entry]] = []
    for run in runs:
        for attack in run.comparisons:
            row = attack.rows[0]
            attacked = f"{row.baseline} classifier" if row.role is Role.BASELINE else "the defence"
            threat = budget(row.norm, row.eps)
            rows.append([run.name, attack.title, attacked, threat, attack.summary.n, attack.summary.metrics["Avg"]])
    columns = ["Defence", "Evaluation", "Attacked", "Threat", "Images", "Average"]
    return Table("Attacks run for the masking checks, %", columns, rows, names=3)
