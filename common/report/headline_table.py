"""Layout of the headline as a table, for the terminal and for the page: a small note below each entry."""

from collections.abc import Sequence
from dataclasses import dataclass

from common.report.scores import HeadlineRow, Score
from common.report.tables.table import percent


@dataclass(frozen=True)
class Stacked:
    """An entry, and the ``note`` below it."""

    text: str
    note: str = ""


@dataclass(frozen=True)
class HeadlineTable:
    """``heads`` of the columns, names first, and ``rows`` of entries; None where a defence has no such number."""

    heads: list[Stacked]
    rows: list[list[Stacked | None]]


def headline_table(rows: Sequence[HeadlineRow]) -> HeadlineTable:
    """One row per defence: accuracies in percent, below them their 95 % intervals, below the name the attack.

    A column without any number is left out. The last one has the numbers of images.
    """
    threat = _threat(rows)
    shown = [(head, scores) for head, scores in _columns(rows, threat) if any(score is not None for score in scores)]
    names = Stacked("Defence", "attack" if any(row.attack for row in rows) else "")
    entries: list[list[Stacked | None]] = [
        [_name(row, threat), *(_score(scores[place]) for _, scores in shown), Stacked(_images(row))]
        for place, row in enumerate(rows)
    ]
    return HeadlineTable([names, *(head for head, _ in shown), Stacked("Images")], entries)


def _columns(rows: Sequence[HeadlineRow], threat: str) -> list[tuple[Stacked, list[Score | None]]]:
    radii = sorted({row.radius for row in rows if row.radius is not None})
    draws = {row.draws for row in rows if row.worst_draw is not None}
    worst = Stacked(f"Worst of {max(draws)}", "draws") if len(draws) == 1 else Stacked("Worst draw")
    return [
        (Stacked("Clean", "%"), [row.clean for row in rows]),
        (Stacked("Robust", threat or "%"), [row.robust for row in rows]),
        (worst, [row.worst_draw for row in rows]),
        (Stacked("Certified", ", ".join(f"r = {radius:g}" for radius in radii)), [row.certified for row in rows]),
    ]


def _threat(rows: Sequence[HeadlineRow]) -> str:
    """The budget of all attacks; empty if they differ."""
    threats = {row.threat for row in rows if row.robust is not None}
    return threats.pop() if len(threats) == 1 else ""


def _name(row: HeadlineRow, threat: str) -> Stacked:
    return Stacked(row.name, ", ".join(part for part in (row.attack, "" if threat else row.threat) if part))


def _score(score: Score | None) -> Stacked | None:
    return None if score is None else Stacked(percent(score.value), f"{percent(score.low)}–{percent(score.high)}")


def _images(row: HeadlineRow) -> str:
    ends = row.images if len(row.images) < 2 else [row.images[0], row.images[-1]]
    return "–".join(map(str, ends)) or "0"
