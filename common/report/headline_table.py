"""Layout of the headline as a table, for the terminal and for the page: a small note below each entry."""

from collections.abc import Sequence
from dataclasses import dataclass

from common.records.intervals import Share
from common.report.scores import HeadlineRow, Score
from common.report.tables.table import Entry, Table, percent


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
    shown = _columns(rows, threat)
    names = Stacked("Defence", "attack" if any(row.attack for row in rows) else "")
    entries: list[list[Stacked | None]] = [
        [_name(row, threat), *(_score(scores[place]) for _, scores in shown), Stacked(_images(row))]
        for place, row in enumerate(rows)
    ]
    return HeadlineTable([names, *(head for head, _ in shown), Stacked("Images")], entries)


def flat_headline(rows: Sequence[HeadlineRow]) -> Table:
    """The same numbers with the attack in a column of its own and the intervals beside their numbers."""
    threat = _threat(rows)
    shown = _columns(rows, threat)
    heads = [f"{head.text} {head.note}" if head.text.startswith("Worst") else _titled(head) for head, _ in shown]
    entries: list[list[Entry]] = [
        [row.name, _name(row, threat).note or None, *(_share(scores[place]) for _, scores in shown), _images(row)]
        for place, row in enumerate(rows)
    ]
    title = "Accuracy in %, with exact 95 % intervals"
    return Table(title, ["Defence", "Worst attack", *map(str.strip, heads), "Images"], entries)


def _titled(head: Stacked) -> str:
    return head.text if head.note in ("", "%") else f"{head.text}, {head.note}"


def _share(score: Score | None) -> Share | None:
    return None if score is None else (score.value, score.low, score.high)


def _columns(rows: Sequence[HeadlineRow], threat: str) -> list[tuple[Stacked, list[Score | None]]]:
    """Heads and scores of the columns that have any number."""
    radii = sorted({row.radius for row in rows if row.radius is not None})
    draws = {row.draws for row in rows if row.worst_draw is not None}
    worst = Stacked(f"Worst of {max(draws)}", "draws") if len(draws) == 1 else Stacked("Worst draw")
    columns = [
        (Stacked("Clean", "%"), [row.clean for row in rows]),
        (Stacked("Robust", threat or "%"), [row.robust for row in rows]),
        (worst, [row.worst_draw for row in rows]),
        (Stacked("Certified", ", ".join(f"r = {radius:g}" for radius in radii)), [row.certified for row in rows]),
    ]
    return [(head, scores) for head, scores in columns if any(score is not None for score in scores)]


def _threat(rows: Sequence[HeadlineRow]) -> str:
    """The budget of all attacks; empty if they differ."""
    threats = {row.threat for row in rows if row.robust is not None}
    return threats.pop() if len(threats) == 1 else ""


def _name(row: HeadlineRow, threat: str) -> Stacked:
    return Stacked(row.name, ", ".join(part for part in (row.attack, "" if threat else row.threat) if part))


def _score(score: Score | None) -> Stacked | None:
    return None if score is None else Stacked(percent(score.value), f"{percent(score.low)}–{percent(score.high)}")


def _images(row: HeadlineRow) -> str:
    """The number of images, or their range; "–" for a row without a score, such as one of forecasts alone."""
    ends = row.images if len(row.images) < 2 else [row.images[0], row.images[-1]]
    return "–".join(map(str, ends)) or "–"
