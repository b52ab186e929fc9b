"""Table of the cost per image: network evaluations, seconds, peak memory."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from common.report.runs import Evaluation, Run
from common.report.tables.controls import UNKNOWN
from common.report.tables.table import Entry, Table

NOTE = (
    "Network evaluations count every row that passes a network, forward and again where a backward pass recomputes it. "
    "Peak memory is the maximum of the tensors on a GPU, or of the process on a CPU."
)


def cost_table(runs: Sequence[Run]) -> Table:
    """Mean cost per image of every evaluation. Part files and archives hold costs; a merged file does not."""
    rows = [_cost(run, evaluation) for run in runs for evaluation in run.recorded]
    columns = ["Defence", "Evaluation", "Images", "Network evaluations", "Seconds", "Peak memory, GB"]
    return Table("Cost per image", columns, rows, notes=[NOTE] if rows else [])


def _cost(run: Run, evaluation: Evaluation[Any]) -> list[Entry]:
    known = [values[~np.isnan(values)].tolist() for values in evaluation.rows.costs.T]
    evaluations, seconds, memory = known
    peak = max(memory, default=0)
    means = (f"{sum(v) / len(v):{form}}" if v else UNKNOWN for v, form in ((evaluations, ",.0f"), (seconds, ",.3g")))
    return [run.name, evaluation.title, len(evaluation.rows), *means, f"{peak / 1e9:.2f}" if peak else UNKNOWN]
