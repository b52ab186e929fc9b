"""Studies by the folders of their records: each one's runs in its own order."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

from common.experiments.study import Study
from common.experiments.study_list import LIST, read_list
from common.naming.outside_text import plain
from common.records.record_files import holds_records, is_run, run_folders, studies_in
from common.report.figures.drawing import Figure
from common.report.figures.study_curves import curve_figures
from common.report.figures.study_figures import study_figures
from common.report.runs import Run, read_runs
from common.report.tables.study_table import Outcome, outcomes, run_outcomes

MOST_NAMED = 8  # folders in an error


@dataclass(frozen=True)
class RecordedStudy:
    """The runs of a ``study``, which ``load`` reads on first use; ``name`` is that of their folder.

    The title and the combinations of the study are empty where they are not known, as for runs of no study.
    """

    name: str
    study: Study
    load: Callable[[], list[Run]]

    @classmethod
    def of_runs(cls, runs: Sequence[Run], study: Study | None = None) -> "RecordedStudy":
        """Runs that were read before."""
        return cls("", study or Study("", "", Path(), []), lambda: list(runs))

    @property
    def title(self) -> str:
        """Title of the study, else the name of its folder."""
        return " ".join(plain(self.study.title).split()) or self.name

    @cached_property
    def runs(self) -> list[Run]:
        """The runs: combinations in the order of the study, with their titles for names, then others by name."""
        titles = {one.name: one.title for one in self.study.combinations if one.title}
        runs = self.load()
        named = [replace(run, name=plain(titles.get(run.name, run.name))) for run in runs]
        for name, times in Counter(run.name for run in named).items():
            if times > 1:
                folders = [one.name for one, shown in zip(runs, named, strict=True) if shown.name == name]
                raise ValueError(
                    f"the runs of {self.name or 'a study'} must have names of their own; {' and '.join(folders)} are "
                    f"both {name}. Remove one of the folders"
                )
        return named

    @cached_property
    def outcomes(self) -> list[Outcome]:
        """Scores of every combination; of every run where the combinations are not known."""
        return outcomes(self.study, self.runs) if self.study.combinations else run_outcomes(self.runs)

    @cached_property
    def figures(self) -> list[Figure]:
        """Figures of the scores against the settings, and of the study's curves below them."""
        if not self.study.combinations:
            return []
        return [*study_figures(self.study, self.outcomes), *curve_figures(self.study, self.outcomes)]


def read_studies(folder: str | Path) -> list[RecordedStudy]:
    """The studies of `study_folders`, by name."""
    return [_recorded(path) for path in study_folders(Path(folder))]


def study_folders(folder: Path) -> list[Path]:
    """``folder`` itself if its folders are runs, else its studies; a run beside studies is a study of its own.

    Empty for a run and for a folder without runs. Raises ``ValueError`` where runs would be left out: those of studies
    within a study, of runs within the runs of a list, and of folders further down.
    """
    if not folder.is_dir() or is_run(folder):
        return []
    below = [path for path in sorted(folder.iterdir()) if path.is_dir()]
    parts, studies = [path for path in below if run_folders(path)], studies_in(folder)
    inner = [one for path in below for one in studies_in(path)] if parts else []
    if holds_records(folder) or (folder / LIST).is_file():
        inner += [one for path in studies for one in (run_folders(path)[1:] if holds_records(path) else [path])]
    if inner:
        names = f"{', '.join(map(str, inner[:MOST_NAMED]))}{', …' if len(inner) > MOST_NAMED else ''}"
        raise ValueError(
            f"{folder} must be the folder of a run, of a study, or of studies and runs; {names} would be left out. "
            f"Name the folders of studies one by one, or move {inner[0].name} out of {inner[0].parent}."
        )
    return parts if studies else [folder] if parts else []


def _recorded(folder: Path) -> RecordedStudy:
    study = read_list(folder)
    places = {one.name: place for place, one in enumerate(study.combinations)}
    paths = sorted(run_folders(folder), key=lambda path: places.get(path.name, len(places)))
    return RecordedStudy(plain(folder.resolve().name), study, partial(read_runs, paths))
