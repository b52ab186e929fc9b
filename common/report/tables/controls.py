"""Tables of matched queries: each attack beside as many queries without one, and attacks run for the masking checks."""

import math
from collections.abc import Sequence

from common.records.intervals import Share, share
from common.records.schema import AttackedRecord, PredictionRecord, Role
from common.records.summary import summary
from common.report.header import budget
from common.report.runs import Evaluation, Run
from common.report.tables.table import Entry, Table

UNKNOWN = "not recorded"


def resubmitted(rows: Sequence[PredictionRecord], times: int) -> Share:
    """Accuracy against an attacker with M = ``times`` submissions per image, from N >= M decisions.

    An image with k of N decisions correct survives M of them, drawn without replacement, with probability
    C(k, M) / C(N, M); for M = 1 this is the average, for M = N the worst case.
    """
    survived = sum(math.comb(sum(row.correct), times) / math.comb(len(row.predictions), times) for row in rows)
    return share(survived, len(rows))


def in_loop(rows: Sequence[AttackedRecord]) -> tuple[Share, float | None] | None:
    """Share of images that no query of the attack's own loop misclassified, and the queries per image."""
    reported = [row for row in rows if row.broken is not None]
    if not reported:
        return None
    queries = [row.queries for row in reported if row.queries is not None]
    intact = share(sum(not row.broken for row in reported), len(reported))
    return intact, sum(queries) / len(queries) if queries else None


def control_table(runs: Sequence[Run]) -> Table:
    """Scores of each attack beside those of as many queries without one, and beside those of its own loop."""
    rows = [row for run in runs for attack in run.attacks for row in _controls(run, attack)]
    columns = ["Defence", "Evaluation", "Queries on", "Queries", "Average", "Worst draw", "Majority", "Worst of M"]
    if all(row[-1] is None for row in rows):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    return Table("Matched queries, accuracy in %", columns, rows, names=3)


def _controls(run: Run, attack: Evaluation[AttackedRecord]) -> list[list[Entry]]:
    kinds: dict[str, Sequence[PredictionRecord]] = {
        "attacked image": attack.rows,
        "clean image": [row.control(row.clean_predictions) for row in attack.rows],
        "random perturbation": [row.control(row.random_predictions) for row in attack.rows if row.random_predictions],
    }
    times = attack.rows[0].resubmissions
    entries: list[list[Entry]] = [
        [run.name, attack.title, kind, *_scores(rows, times)] for kind, rows in kinds.items() if rows
    ]
    if loop := in_loop(attack.rows):
        queries = UNKNOWN if loop[1] is None else f"{loop[1]:,.0f}"
        entries.append([run.name, attack.title, "any point of its loop", queries, None, loop[0], None, None])
    return entries


def _scores(rows: Sequence[PredictionRecord], times: int) -> list[Entry]:
    draws, metrics = len(rows[0].predictions), summary(rows[0].source, rows).metrics
    several = resubmitted(rows, times) if 1 < times < draws else None
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
