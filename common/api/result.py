"""Result of an evaluation: its headline, its numbers, its records, its page."""

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

from common.checks.settings import check_part
from common.naming.parameters import name_arguments
from common.records.rows import values
from common.records.schema import Record
from common.records.store import Records
from common.records.summary import Summary
from common.report.build import build
from common.report.headline import Headline, HeadlineRow, Score, headline
from common.report.runs import Run


@dataclass(frozen=True, repr=False)
class Result:
    """Records of one defence and the numbers that follow from them; ``print(result)`` shows the headline.

    ``run`` holds the records with those of the gradient check and the masking checks, and the settings. A score has
    ``value``, ``low`` and ``high``, the ends of its exact 95 % interval, and ``images``; it is None without records.
    ``print(result.robust)`` shows "40.6% (28.5% to 53.6%, 64 images)".
    """

    run: Run

    def __post_init__(self) -> None:
        check_part("run", self.run, Run)

    @property
    def records(self) -> list[Record]:
        """Rows of the results, one per image and evaluation, typed: see ``common.records``."""
        sources = {one.source for one in (*self.run.clean, *self.run.attacks, *self.run.certified, *self.run.claimed)}
        return [row for row in self.run.records if row.source in sources]

    @property
    def clean(self) -> Score | None:
        """Clean accuracy of one query."""
        return self._row.clean

    @property
    def robust(self) -> Score | None:
        """Accuracy of one query under ``attack``, the worst case of all attacks within the budget."""
        return self._row.robust

    @property
    def worst_draw(self) -> Score | None:
        """Share of images that are correct on all scored draws under ``attack``, of a deterministic defence
        `robust`; None with a single draw."""
        return self._row.worst_draw

    @property
    def attack(self) -> str:
        """Name of the worst attack."""
        return self._row.attack

    @property
    def certified(self) -> Score | None:
        """Certified accuracy at the radius of the headline; see `certified_at`."""
        return self._row.certified

    def certified_at(self, radius: float) -> Score | None:
        """Certified accuracy at an L2 radius in pixels."""
        return headline([self.run], radius).rows[0].certified

    @property
    def summaries(self) -> list[Summary]:
        """Metrics of each evaluation with exact intervals."""
        return [evaluation.summary for evaluation in self.run.results]

    @property
    def headline(self) -> Headline:
        """Table of one row, and sentences on what limits its numbers."""
        return headline([self.run])

    @cached_property
    def _row(self) -> HeadlineRow:
        return self.headline.rows[0]

    def to_pandas(self) -> Any:
        """Records as a ``pandas.DataFrame``: one row each, one column per field, costs as ``cost_…``.

        Raises ``ImportError`` without pandas.
        """
        try:
            pandas = import_module("pandas")
        except ImportError as error:
            raise ImportError("to_pandas needs pandas: pip install pandas") from error
        return pandas.DataFrame([_columns(row) for row in self.records])

    def report(self, path: str | Path = "runs/report") -> Path:
        """Write the HTML page with tables and figures into a folder, or to ``path`` if it ends in ``.html``.

        Returns the path of the page, and prints nothing.
        """
        with tempfile.TemporaryDirectory() as folder:
            return build([self._written(folder)], path, quiet=True)

    def _written(self, folder: str) -> Path:
        """The records as a directory named as the run."""
        store = Records(Path(folder) / self.run.name, self.run.fingerprint, self.run.config)
        store.append(self.run.records)
        store.close()
        return store.path

    def __str__(self) -> str:
        return str(self.headline)

    __repr__ = __str__

    def __rich__(self) -> Headline:
        return self.headline


def _columns(row: Record) -> dict[str, Any]:
    """Fields of a row with plain values."""
    cost = {} if row.cost is None else {f"cost_{name}": value for name, value in asdict(row.cost).items()}
    return {"kind": row.kind.value, **values(row), "role": row.role.value, **cost}


@name_arguments
def compare(results: Sequence[Result]) -> Headline:
    """Headline of several results, one row each. Raises ``ValueError`` for anything but a list of results."""
    listed = list(results) if isinstance(results, list | tuple) else []
    if not listed or not all(isinstance(one, Result) for one in listed):
        got = ", ".join(dict.fromkeys(type(one).__name__ for one in listed)) or "none"
        raise ValueError(f"compare needs a list of results; got {got}. Write compare([first, second])")
    return headline([result.run for result in listed])
