"""Runs of a report: records directories with their evaluations, masking checks and header."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from common.naming.outside_text import plain
from common.numerics.finding import Finding
from common.records.column_rows import Rows
from common.records.masking.check import MaskingCheck
from common.records.masking.checks import masking_checks
from common.records.merging import merged
from common.records.reading import read_table
from common.records.record_files import ARCHIVE, DIAGNOSTICS, MERGED, holds_records, run_folders, studies_in
from common.records.schema import (
    AttackedRecord,
    CertifiedRecord,
    ClaimedRecord,
    CleanRecord,
    GradientCheckRecord,
    Record,
    Role,
    Source,
)
from common.records.summary import Summary, summary
from common.records.table import Table
from common.records.worst_case import per_image_minimum, worst_case
from common.report.header import evaluator_parts

R = TypeVar("R", bound=Record)
R_co = TypeVar("R_co", bound=Record, covariant=True)
CheckState = Literal["passed", "failed", "undecided"]
Budget = tuple[str, float]  # norm and eps


@dataclass(frozen=True)
class Evaluation(Generic[R_co]):
    """One evaluation of a run: its ``rows`` by index and its description ``part`` in the header, empty if missing."""

    source: Source
    rows: Rows[R_co]
    part: dict[str, Any]

    @property
    def name(self) -> str:
        """Evaluator's name, which its seeds share."""
        return self.source.evaluator

    @property
    def title(self) -> str:
        """Name to show, with the seed."""
        return self.source.title

    @cached_property
    def summary(self) -> Summary:
        """Metrics with exact intervals."""
        return summary(self.source, self.rows)


@dataclass(frozen=True)
class Run:
    """One records directory, with its diagnostics.

    ``name`` is the directory's, with its parent's where two would be alike; ``config`` is the header's, with the
    evaluators of the diagnostics besides. ``records`` are rows, one per key, or a `Table` of them.
    """

    name: str
    fingerprint: str
    config: dict[str, Any]
    records: Sequence[Record]

    @cached_property
    def table(self) -> Table:
        """The records as columns."""
        return Table.of(self.records)

    @cached_property
    def clean(self) -> list[Evaluation[CleanRecord]]:
        """Clean evaluations."""
        return self._select(CleanRecord, lambda rows: rows.source.role is Role.RESULT)

    @cached_property
    def attacks(self) -> list[Evaluation[AttackedRecord]]:
        """Attacks on the defence."""
        return self._select(AttackedRecord, lambda rows: rows.source.role is Role.RESULT)

    @cached_property
    def worst_cases(self) -> list[Evaluation[AttackedRecord]]:
        """Worst case of several attacks within one budget, see `worst_case`."""
        return self._evaluations(worst_case(Table(attack.rows for attack in self.attacks)).parts)

    @cached_property
    def minima(self) -> list[Evaluation[AttackedRecord]]:
        """Per-image minimum of the attacks of each worst case, where it differs: see `per_image_minimum`."""
        least = self._evaluations(per_image_minimum(Table(attack.rows for attack in self.attacks)).parts)
        return [one for one in least if len(one.rows[0].predictions) > 1]

    @property
    def attacked(self) -> list[Evaluation[AttackedRecord]]:
        """Attacks and their worst cases."""
        return [*self.attacks, *self.worst_cases]

    @cached_property
    def certified(self) -> list[Evaluation[CertifiedRecord]]:
        """Certificates and forecasts of them."""
        return self._select(CertifiedRecord, lambda rows: not issubclass(rows.kind, ClaimedRecord))

    @cached_property
    def claimed(self) -> list[Evaluation[ClaimedRecord]]:
        """Published radii that are no bounds."""
        return self._select(ClaimedRecord)

    @cached_property
    def comparisons(self) -> list[Evaluation[AttackedRecord]]:
        """Attacks that only the masking checks use: other budgets, fewer steps, other classifiers."""
        return self._select(AttackedRecord, lambda rows: rows.source.role is not Role.RESULT)

    @cached_property
    def gradient_checks(self) -> list[Evaluation[GradientCheckRecord]]:
        """Gradient checks."""
        return self._select(GradientCheckRecord)

    @property
    def results(self) -> list[Evaluation[Any]]:
        """Evaluations that score the defence, in the order of the tables."""
        return [*self.clean, *self.attacked, *self.certified, *self.claimed]

    @property
    def recorded(self) -> list[Evaluation[Any]]:
        """Evaluations with records of their own, results first."""
        scored: list[Evaluation[Any]] = [*self.clean, *self.attacks, *self.certified, *self.claimed]
        return [*scored, *self.comparisons, *self.gradient_checks]

    @cached_property
    def worst_by_budget(self) -> dict[Budget, Evaluation[AttackedRecord]]:
        """By budget (norm, eps) the worst case of its attacks, or its only attack.

        Where several are left, because they are not attacks of one protocol: first those that do not know the draws,
        then those on most images, then the least accuracy.
        """
        worst: dict[Budget, Evaluation[AttackedRecord]] = {}
        for one in self.attacked:
            key = (one.rows[0].norm, one.rows[0].eps)
            if key not in worst or _weakness(one) <= _weakness(worst[key]):
                worst[key] = one
        return worst

    @cached_property
    def checks(self) -> list[MaskingCheck]:
        """Masking checks that the records allow."""
        return masking_checks(self.table, self.config)

    def _select(self, kind: type[R], keep: Callable[[Rows[R]], bool] = lambda rows: True) -> list[Evaluation[R]]:
        return self._evaluations(self.table.select(kind, keep))

    def _evaluations(self, parts: Sequence[Rows[R]]) -> list[Evaluation[R]]:
        return [Evaluation(rows.source, rows, self._part(rows.source)) for rows in parts]

    def _part(self, source: Source) -> dict[str, Any]:
        """Description of an evaluation in the header; that of another seed where it has none of its own."""
        alike = [
            (described, part)
            for described, part in self.described
            if (described.evaluator, described.role) == (source.evaluator, source.role)
        ]
        alike.sort(key=lambda entry: entry[0] != source)  # its own description first
        return alike[0][1] if alike else {}

    @cached_property
    def described(self) -> list[tuple[Source, dict[str, Any]]]:
        """Evaluators that the header describes, with or without records."""
        return evaluator_parts(self.config)


def _weakness(attack: Evaluation[AttackedRecord]) -> tuple[bool, int, float]:
    return attack.rows[0].knows != "model", -len(attack.rows), attack.summary.metrics["Avg"][0]


def by_name(evaluations: Sequence[Evaluation[R]]) -> dict[str, list[Evaluation[R]]]:
    """Evaluations by their evaluator's name: the seeds of one evaluator together."""
    groups: dict[str, list[Evaluation[R]]] = {}
    for evaluation in evaluations:
        groups.setdefault(evaluation.name, []).append(evaluation)
    return groups


def state(check: MaskingCheck | Finding) -> CheckState:
    """State of a masking check, or of a finding of the gradient check; an undecided one has not passed or failed."""
    if not check.decided:
        return "undecided"
    return "passed" if check.passed else "failed"


def read_runs(paths: Sequence[str | Path]) -> list[Run]:
    """Runs in the order of ``paths``; a directory stands for itself if it holds records, and its folders that do.

    A run that is named twice is read once. Raises ``ValueError`` when there are no paths, no records in one of them, or
    studies, folders of runs, in one without records.
    """
    if isinstance(paths, str | Path):
        raise ValueError(f"a report needs a list of directories; got {paths!r}. Write [{str(paths)!r}].")
    named: dict[Path, Path] = {}
    for place in (place for path in paths for place in _record_folders(Path(path))):
        named.setdefault(_identity(place), place)
    places = list(named.values())
    if not places:
        raise ValueError("a report needs at least one records directory; got none")
    absolute = [place.resolve() for place in places]
    folders = [place.parent if place.is_file() else place for place in absolute]
    names = [plain(folder.name) for folder in folders]
    return [
        _read(name if names.count(name) == 1 else f"{plain(folder.parent.name)}/{name}", place)
        for name, folder, place in zip(names, folders, places, strict=True)
    ]


def _identity(place: Path) -> Path:
    """The same path for one directory of records, by whatever name, and for its merged file or archive."""
    resolved = place.resolve()
    return resolved.parent if resolved.is_file() and resolved.name in (MERGED, ARCHIVE) else resolved


def _read(name: str, place: Path) -> Run:
    header, table = read_table(place)
    config, beside = header.config, (place.parent if place.is_file() else place) / DIAGNOSTICS
    if holds_records(beside):
        more, others = read_table(beside)
        table = merged([*table.parts, *others.parts])
        config = {**config, "evaluators": [*config.get("evaluators", []), *more.config.get("evaluators", [])]}
    return Run(name, header.fingerprint, config, table)


def _record_folders(path: Path) -> list[Path]:
    """``path`` itself and its folders, as far as they hold records; ``path`` if none does."""
    if not holds_records(path) and (studies := studies_in(path)):
        raise ValueError(
            f"each path must be the folder of a run or of runs; {path} holds studies, {', '.join(map(str, studies))}. "
            "Name them, or that folder alone: a report of one folder of studies has a page of each."
        )
    return run_folders(path) or [path]
