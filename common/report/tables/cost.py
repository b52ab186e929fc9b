"""Table of the cost per image: network evaluations, seconds, peak memory."""

from collections.abc import Sequence
from typing import Any

from common.report.runs import Evaluation, Run
from common.report.tables.controls import UNKNOWN
from common.report.tables.table import Entry, Table

NOTE = (
    "Network evaluations count every row that passes a network, forward and again where a backward pass recomputes it. "
    "Peak memory is the maximum of the tensors on a GPU, or of the process on a CPU."
)


def cost_table(runs: Sequence[Run]) -> Table:
    """Mean cost per image of every evaluation. Only part files hold costs; a merged file does not."""
    rows = [_cost(run, evaluation) for run in runs for evaluation in run.recorded]
    columns = ["Defence", "Evaluation", "Images", "Network evaluations", "Seconds", "Peak memory, GB"]
    return Table("Cost per image", columns, rows, notes=[NOTE] if rows else [])


def _cost(run: Run, evaluation: Evaluation[Any]) -> list[Entry]:
    costs = [row.cost for row in evaluation.rows if row.cost is not None]
    evaluations = [cost.evaluations for cost in costs if cost.evaluations is not None]
    seconds = [cost.seconds for cost in costs if cost.seconds is not None]
    peak = max((cost.peak_bytes for cost in costs if cost.peak_bytes is not None), default=0)
    means = (f"{sum(v) / len(v):{form}}" if v else UNKNOWN for v, form in ((evaluations, ",.0f"), (seconds, ",.3g")))
    return [run.name, evaluation.title, len(evaluation.rows), *means, f"{peak / 1e9:.2f}" if peak else UNKNOWN]
