"""What a report is made of: the records of several runs, read once, each with its name, configuration and summaries."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from common.robustness.checks import Check, examine
from common.robustness.journal import MERGED, PARTS, load, merge
from common.robustness.records import Record, Summary, summarise, worst_case


@dataclass(frozen=True)
class Run:
    """One records directory. ``name`` is the directory's, with its parent's where two would be alike."""

    name: str
    fingerprint: str
    config: dict[str, Any]
    records: list[Record]

    @cached_property
    def worst(self) -> list[Record]:
        """Per image the stronger of the run's attacks, see `worst_case`."""
        return [Record(r.evaluator, r.index, r.label, _without_pictures(r.values)) for r in worst_case(self.records)]

    @cached_property
    def summaries(self) -> list[Summary]:
        """One per evaluator: clean accuracies first, then attacked ones, then certificates."""
        return sorted(
            summarise([*self.records, *self.worst]),
            key=lambda summary: (self.kind(summary.evaluator), summary.evaluator),
        )

    @cached_property
    def checks(self) -> list[Check]:
        """Masking checks that the records allow."""
        return examine(self.records)

    def rows(self, evaluator: str) -> list[Record]:
        """The records of one evaluator, by index."""
        return [record for record in (*self.records, *self.worst) if record.evaluator == evaluator]

    def kind(self, evaluator: str) -> int:
        """0 clean, 1 attacked, 2 certified."""
        values = self.rows(evaluator)[0].values
        return 2 if "radius" in values else 1 if "distance" in values else 0

    def of_kind(self, kind: int) -> list[Summary]:
        """Summaries of one kind, see `kind`."""
        return [summary for summary in self.summaries if self.kind(summary.evaluator) == kind]


def _without_pictures(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != "images"}


def read_runs(paths: Sequence[str | Path]) -> list[Run]:
    """Runs in the order of ``paths``; a directory without records stands for those below it that have some.

    Raises ``ValueError`` when there are no paths, or no records in one of them.
    """
    if isinstance(paths, str | Path):
        raise ValueError(f"a report needs a list of directories; got {paths!r}. Write [{str(paths)!r}].")
    places = [place for path in paths for place in _places(Path(path))]
    if not places:
        raise ValueError("a report needs at least one records directory; got none")
    whole = [place.resolve() for place in places]
    folders = [place.parent if place.is_file() else place for place in whole]
    names = [folder.name for folder in folders]
    return [
        _read(name if names.count(name) == 1 else f"{folder.parent.name}/{name}", place)
        for name, folder, place in zip(names, folders, places, strict=True)
    ]


def _read(name: str, place: Path) -> Run:
    header, rows = load(place)
    return Run(name, header.fingerprint, header.config, merge(rows))


def _places(path: Path) -> list[Path]:
    if path.is_dir() and not _holds_records(path):
        below = sorted(folder for folder in path.iterdir() if folder.is_dir() and _holds_records(folder))
        return below or [path]
    return [path]


def _holds_records(folder: Path) -> bool:
    return any(True for pattern in (PARTS, MERGED) for _ in folder.glob(pattern))
