"""What a report is made of: the records of several runs, read once, each with its name, configuration and summaries."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from common.records.rows import DIAGNOSTICS, MERGED, PARTS, load, merge
from common.records.store import Record, Summary, summarise, worst_case
from common.report.header import evaluator_parts
from common.robustness.masking.checks import MaskingCheck, masking_checks
from common.robustness.masking.paired_checks import MASKING

SEEDED = "/seed="  # what tells the evaluators apart that one evaluator with several seeds became
_OF_WORST = ("predictions", "clean_predictions", "distance", "norm", "eps")


@dataclass(frozen=True)
class Run:
    """One records directory, with its diagnostics.

    ``name`` is the directory's, with its parent's where two would be alike; ``config`` is the header's, with the
    evaluators of the diagnostics besides.
    """

    name: str
    fingerprint: str
    config: dict[str, Any]
    records: list[Record]

    @cached_property
    def worst(self) -> list[Record]:
        """Per image the stronger of the run's attacks, see `worst_case`; of its values only those that are its own."""
        judged = [row for row in self.records if is_judged(row)]
        return [Record(r.evaluator, r.index, r.label, _own(r.values)) for r in worst_case(judged)]

    @cached_property
    def summaries(self) -> list[Summary]:
        """One per evaluator that scores the defence: clean accuracies, attacked ones, certificates, claims."""
        scored = [row for rows in self._groups.values() for row in rows if is_scored(row) and is_judged(row)]
        return sorted(summarise(scored), key=lambda summary: (self.kind(summary.evaluator), summary.evaluator))

    @cached_property
    def probes(self) -> list[Summary]:
        """Of the evaluators that only serve to check others: other budgets, fewer steps, other classifiers."""
        return summarise([row for row in self.records if is_scored(row) and not is_judged(row)])

    @cached_property
    def checks(self) -> list[MaskingCheck]:
        """Masking checks that the records allow."""
        return masking_checks(self.records, self.config)

    @cached_property
    def parts(self) -> dict[str, dict[str, Any]]:
        """The header's descriptions of the evaluators, by name."""
        return evaluator_parts(self.config)

    def part(self, evaluator: str) -> dict[str, Any]:
        """The header's description of an evaluator; empty if it has none."""
        return self.parts.get(evaluator) or self.parts.get(family(evaluator), {})

    def rows(self, evaluator: str) -> list[Record]:
        """The records of one evaluator, by index."""
        return self._groups.get(evaluator, [])

    def kind(self, evaluator: str) -> int:
        """0 clean, 1 attacked, 2 certified, 3 claimed: a radius that proves nothing."""
        values = self.rows(evaluator)[0].values
        if "radius" in values:
            return 2 if values.get("sound", True) else 3
        return 1 if "distance" in values else 0

    def of_kind(self, kind: int) -> list[Summary]:
        """Summaries of one kind, see `kind`."""
        return [summary for summary in self.summaries if self.kind(summary.evaluator) == kind]

    @cached_property
    def evaluators(self) -> list[str]:
        """All that left records: what scores in the order of the tables, then the rest."""
        names = [summary.evaluator for summary in self.summaries]
        derived = {row.evaluator for row in self.worst}
        return [name for name in dict.fromkeys([*names, *self._groups]) if name not in derived]

    @cached_property
    def attacks(self) -> list[str]:
        """The evaluators that attacked the defence, without the worst cases derived from several of them."""
        derived = {row.evaluator for row in self.worst}
        return [summary.evaluator for summary in self.of_kind(1) if summary.evaluator not in derived]

    @cached_property
    def worst_names(self) -> dict[tuple[str, float], str]:
        """By budget (norm, eps) the evaluator with the worst case: the one derived from several, or the only attack."""
        found: dict[tuple[str, float], str] = {}
        for name in [*self.attacks, *dict.fromkeys(row.evaluator for row in self.worst)]:
            values = self.rows(name)[0].values
            if "norm" in values and "eps" in values:
                found[str(values["norm"]), float(values["eps"])] = name
        return found

    @cached_property
    def _groups(self) -> dict[str, list[Record]]:
        rows = sorted([*self.records, *self.worst], key=lambda record: record.key)
        return {name: list(group) for name, group in groupby(rows, key=lambda record: record.evaluator)}


def family(evaluator: str) -> str:
    """The name of an evaluator without its seed: ``"pgd/seed=1"`` -> ``"pgd"``."""
    return evaluator.split(SEEDED)[0] or evaluator


def state(check: MaskingCheck) -> Literal["passed", "failed", "undecided"]:
    """Of a check: one that proves nothing either way has neither passed nor failed."""
    if not check.decided:
        return "undecided"
    return "passed" if check.passed else "failed"


def is_scored(row: Record) -> bool:
    """Whether a record is a result; others (of a verification, say) are notes on the run."""
    return "predictions" in row.values or "radius" in row.values


def is_judged(row: Record) -> bool:
    """Whether a record speaks of the defence, and is not there for another to be checked by."""
    return not row.evaluator.startswith(MASKING) and "baseline" not in row.values


def _own(values: dict[str, Any]) -> dict[str, Any]:
    return {key: values[key] for key in _OF_WORST if key in values} | {"white_box": False}


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
    config, beside = header.config, (place.parent if place.is_file() else place) / DIAGNOSTICS
    if _holds_records(beside):
        more, found = load(beside)
        rows += found
        config = {**config, "evaluators": [*config.get("evaluators", []), *more.config.get("evaluators", [])]}
    return Run(name, header.fingerprint, config, merge(rows))


def _places(path: Path) -> list[Path]:
    if path.is_dir() and not _holds_records(path):
        below = sorted(folder for folder in path.iterdir() if folder.is_dir() and _holds_records(folder))
        return below or [path]
    return [path]


def _holds_records(folder: Path) -> bool:
    return any(True for pattern in (PARTS, MERGED) for _ in folder.glob(pattern))
