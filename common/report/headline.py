"""Headline of a report: one row per defence, and at most five sentences on what limits its numbers."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group, RenderableType
from rich.constrain import Constrain

from common.naming.terminal import Terminal
from common.records.schema import Record
from common.report.remark import Remark
from common.report.remarks import remarks
from common.report.runs import Run, read_runs
from common.report.scores import HeadlineRow, Score, headline_rows
from common.report.terminal import remark_list, score_table

__all__ = ["Headline", "HeadlineRow", "Remark", "Score", "headline", "headline_of_rows", "read_headline"]

WIDEST = 100  # columns of a terminal that the headline fills


@dataclass(frozen=True)
class Headline:
    """``rows`` in the order of the runs, and ``remarks`` on them, the gravest first."""

    rows: list[HeadlineRow]
    remarks: list[Remark]

    @property
    def sentences(self) -> list[str]:
        """Words of the remarks."""
        return [remark.sentence for remark in self.remarks]

    def render(self, width: int = 80) -> str:
        """Plain text for a terminal of ``width`` columns, without colours."""
        console = Terminal(file=io.StringIO(), width=width, color_system=None, force_terminal=False)
        with console.capture() as capture:
            console.print(self)
        return capture.get()

    def __str__(self) -> str:
        return self.render()

    def __rich__(self) -> RenderableType:
        parts = [score_table(self.rows), remark_list(self.remarks)]
        return Constrain(Group(*parts[: 1 + bool(self.remarks)]), WIDEST)


def headline(runs: Sequence[Run], radius: float | None = None) -> Headline:
    """Headline of some runs, with certified accuracies at the L2 ``radius``; see `headline_rows`."""
    return Headline(headline_rows(runs, radius), remarks(runs))


def read_headline(paths: str | Path | Sequence[str | Path], radius: float | None = None) -> Headline:
    """Headline of one records directory, or of several. Raises ``ValueError`` when one holds no records."""
    return headline(read_runs([paths] if isinstance(paths, str | Path) else paths), radius)


def headline_of_rows(name: str, rows: Sequence[Record], radius: float | None = None) -> Headline:
    """Headline of the rows of one defence that are not in a file."""
    return headline([Run(name, "", {}, rows)], radius)
