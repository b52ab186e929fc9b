"""Masking checks of a run: does its robust accuracy rest on an attack that works?

After Athalye et al. (arXiv 1802.00420) and Carlini et al. (arXiv 1902.06705): a defence that merely hides its gradient
looks robust. Every check is a function of records and returns one sentence for the report. A failed check does not
change a number; it states why the number may be too high. A check with too few images is undecided, and has not failed.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from common.records.column_rows import Rows, common_images
from common.records.masking.check import Attacked, MaskingCheck, transfers_from_itself
from common.records.masking.paired_checks import breaks_significantly_more, transfer, trends
from common.records.masking.single_checks import (
    attack_beats_clean_queries,
    attack_breaks_the_baseline,
    huge_budget_breaks_all,
    single_checks,
)
from common.records.schema import AttackedRecord, Record, Role, Source
from common.records.table import Table

HUGE = {"Linf": 0.5}  # radius from which on a grey image is within reach of every image, and with it any class


def masking_checks(records: Iterable[Record], config: Mapping[str, Any] | None = None) -> list[MaskingCheck]:
    """All checks that the records of one run allow, for each of its attacks.

    ``config`` is the run's header (``Records.describe(path).config``), by which attacks that differ in one setting are
    compared. Evaluators made for comparison (`masking_suite`) have no checks of their own.
    """
    runs = {rows.source: rows for rows in Table.of(records).select(AttackedRecord)}
    baselines = [rows for source, rows in runs.items() if source.role is Role.BASELINE]
    ours = {source: rows for source, rows in runs.items() if source.role is not Role.BASELINE}
    parts = (config or {}).get("evaluators") or []
    own = {Source.described(part) for part in parts if transfers_from_itself(part, config or {})}
    results = {source: rows for source, rows in ours.items() if source.role is Role.RESULT}
    white = [rows for source, rows in results.items() if rows[0].white_box]
    black = [rows for source, rows in results.items() if not rows[0].white_box and source not in own]
    working = [rows for rows in white if black and attack_beats_clean_queries(rows).passed]
    return [
        *(check for rows in white for check in single_checks(rows)),
        *(check for rows in black for check in single_checks(rows, any(_is_stronger(w, rows) for w in working))),
        *(transfer(w, b) for w in white for b in black if _comparable(w, b)),
        *trends(ours, parts),
        *(huge_budget_breaks_all(rows) for rows in ours.values() if _is_huge(rows)),
        *(attack_breaks_the_baseline(rows) for rows in baselines),
    ]


def _threat(rows: Attacked) -> tuple[str, float]:
    return rows[0].norm, rows[0].eps


def _is_huge(rows: Attacked) -> bool:
    norm, eps = _threat(rows)
    return rows[0].role is Role.HUGE_BUDGET or (norm in HUGE and eps >= HUGE[norm])


def _comparable(first: Attacked, second: Attacked) -> bool:
    return _threat(first) == _threat(second) and len(common_images([Rows.of(first), Rows.of(second)])) > 0


def _is_stronger(white: Attacked, black: Attacked) -> bool:
    """True if a white-box attack breaks significantly more images than a black-box one within the same threat."""
    return _comparable(white, black) and breaks_significantly_more(white, black)
