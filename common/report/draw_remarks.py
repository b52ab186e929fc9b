"""Sentences on several draws of a defence's noise: what an attacker with as many queries gains by them."""

from collections.abc import Iterator, Sequence

from common.records.worst_case import protocol
from common.report.header import find
from common.report.remark import Remark
from common.report.runs import Run
from common.report.scores import HeadlineRow
from common.report.tables.table import percent


def draws(runs: Sequence[Run], rows: Sequence[HeadlineRow]) -> Iterator[Remark]:
    """The loss to an attacker with several queries, where it is largest; randomised defences queried once."""
    several = [row for row in rows if row.robust is not None and row.worst_draw is not None]
    if several:
        row = max(several, key=_lost)
        if row.robust is not None and row.worst_draw is not None and _lost(row) > 0:
            yield Remark(
                "note",
                f"{row.name}: an attacker with {row.draws} queries per image leaves {percent(row.worst_draw.value)} % "
                f"correct, one with a single query {percent(row.robust.value)} %.",
            )
    names = [
        run.name
        for run, row in zip(runs, rows, strict=True)
        if row.robust is not None and row.draws == 1 and find(run.config.get("classifier"), "randomised") is True
    ]
    if names:
        yield Remark(
            "note", f"Randomised, but scored on one draw per image: {', '.join(names)}. More draws show a retry."
        )


def minima(runs: Sequence[Run]) -> Iterator[Remark]:
    """The loss to an attacker who chooses the attack by the scored draws, where it is largest."""
    gaps: list[tuple[float, str]] = []
    for run in runs:
        least = {protocol(one.rows[0]): one.summary.metrics["Avg"][0] for one in run.minima}
        for worst in run.worst_cases:
            fitted, minimum = worst.summary.metrics["Avg"][0], least.get(protocol(worst.rows[0]), 1.0)
            sentence = (
                f"{run.name}: the per-image minimum of its attacks leaves {percent(minimum)} % correct, their "
                f"cross-fitted worst case {percent(fitted)} %."
            )
            gaps.append((fitted - minimum, sentence))
    gap, sentence = max(gaps, default=(0.0, ""))
    if gap > 0:
        yield Remark("note", sentence)


def _lost(row: HeadlineRow) -> float:
    return row.robust.value - row.worst_draw.value if row.robust is not None and row.worst_draw is not None else 0.0
